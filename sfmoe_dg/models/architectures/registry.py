"""Architectures. Importing this package registers all of them with timm: ``timm.create_model("sf_moe_tiny_32")``."""

from sfmoe_dg.models.architectures import conditional_moe, hybrid, sf_moe, v_moe, vit_tiny, wide_net

ARCHITECTURES = (vit_tiny, sf_moe, hybrid, wide_net, v_moe, conditional_moe)
"""The files that register models with timm; a new architecture is one file and its name here."""
