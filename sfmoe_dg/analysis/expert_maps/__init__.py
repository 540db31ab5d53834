"""Which expert takes which patch of an image."""
