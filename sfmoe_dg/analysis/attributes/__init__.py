"""Which expert goes with which visual attribute."""
