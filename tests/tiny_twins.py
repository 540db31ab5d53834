"""The small networks of every architecture in the registries, for tests that run them all."""

from __future__ import annotations

from sfmoe_dg.algorithms.registry import ALGORITHMS, default_hparams
from sfmoe_dg.models.backbones import known_backbones

TINY_TWINS = [name for name in known_backbones() if name.endswith("_32")]
"""All transformers of this package for pictures of 28 to 32 px."""

PRESETS = {
    name: backbone for name in ALGORITHMS if (backbone := default_hparams(name, "StyledDigits")["backbone"]) != "auto"
}
"""Algorithms that name a backbone of their own, and its variant for small pictures."""

TINY_MOES = list(PRESETS.values())
"""Those backbones: mixtures of experts."""
