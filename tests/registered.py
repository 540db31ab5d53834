"""What the registries hold, for tests of all of it: a new algorithm or backbone is tested without being named here."""

from __future__ import annotations

from sfmoe_dg.algorithms.registry import ALGORITHMS, default_hparams
from sfmoe_dg.models.backbones import known_backbones

PRESETS = {
    name: backbone for name in ALGORITHMS if (backbone := default_hparams(name, "StyledDigits")["backbone"]) != "auto"
}
"""Algorithms that name a backbone of their own, and its variant for pictures of 32 px."""

TINY_BACKBONES = [name for name in known_backbones() if name.endswith("_tiny_32")]
"""Our transformers for pictures of 32 px, in the order of their names."""
