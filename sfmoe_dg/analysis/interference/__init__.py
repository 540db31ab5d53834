"""Whether the gradients of one domain harm another (Uni-Perceiver-MoE, section 3)."""
