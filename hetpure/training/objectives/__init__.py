"""What a network is trained to predict: one objective a module, and their names."""
