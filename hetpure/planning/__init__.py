"""What an evaluation will cost, and the sizes that are chosen by it: measured before it begins."""
