"""The table of architectures. A new one is one file in this folder and one line here; no torch is imported for it."""

from __future__ import annotations

import importlib

FOLDER = "sfmoe_dg.models.architectures"

ARCHITECTURES: dict[str, tuple[str, ...]] = {
    "vit_tiny": (),
    "sf_moe": ("SFMoE",),
    "hybrid": ("HybridSFMoE",),
    "g_moe": ("GMoE",),
    "wide_net": ("WideNet",),
    "conditional_moe": ("CondMoE",),
    "v_moe": ("VMoE",),
}
"""Every file that registers networks with timm, and the presets in it: algorithms that are ERM on such a network."""


def presets() -> dict[str, str]:
    """Where every preset is, as ``module:attribute``, by its name."""
    return {name: f"{FOLDER}.{file}:{name}" for file, names in ARCHITECTURES.items() for name in names}


def import_architectures() -> None:
    """Import every file of the table: timm then knows its networks."""
    for file in ARCHITECTURES:
        importlib.import_module(f"{FOLDER}.{file}")
