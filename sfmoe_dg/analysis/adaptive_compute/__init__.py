"""How accuracy changes when fewer patches are processed at inference (V-MoE, section 4)."""
