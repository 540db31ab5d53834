"""The style of all figures, and how a figure is saved with its table and caption."""
