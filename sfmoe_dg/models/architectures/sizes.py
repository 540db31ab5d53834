"""Sizes that several architectures share, and timm's records of where weights come from."""

from __future__ import annotations

from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from sfmoe_dg.models.architectures.stem import ConvStem

SMALL = {"patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 6}
BASE = {"patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12}
"""DeiT's S and B."""

TINY: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 64,
    "depth": 4,
    "num_heads": 4,
    "embed_layer": ConvStem,
    "global_pool": "avg",
    "pool_include_prefix": True,
}
"""The tiny twins: 4×4 tokens and the class token. Their features are the mean of all tokens, which learns in half the
steps that the class token alone needs (on StyledDigits)."""

HALF = (0.5, 0.5, 0.5)
"""Mean and standard deviation of pictures that are scaled to [-1, 1]."""


def cfg(hub_id: str | None, **changes: Any) -> dict[str, Any]:
    """timm's record of where weights come from and which input they want."""
    return {
        "hf_hub_id": hub_id,
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "fixed_input_size": True,
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        **changes,
    }


def tiny_cfg() -> dict[str, Any]:
    """The record of a tiny twin: there are no weights, and pictures are scaled to [-1, 1]."""
    return cfg(None, input_size=(3, 32, 32), num_classes=10, mean=HALF, std=HALF, first_conv=None)
