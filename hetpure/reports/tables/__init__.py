"""Tables of methods by columns, the paper's among them."""
