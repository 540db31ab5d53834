"""Which expert takes which part of an object (SF-MoE, figure of part histograms)."""
