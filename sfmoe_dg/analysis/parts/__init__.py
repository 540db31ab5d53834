"""Which expert takes which part of an object (SF-MoE's part histogram)."""
