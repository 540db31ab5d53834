"""The checkpoints that google-research/vmoe released: reading them, and converting them to timm's layout."""
