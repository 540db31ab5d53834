"""Pre-trained weights: where they are, how they are checked, how dense weights become experts."""
