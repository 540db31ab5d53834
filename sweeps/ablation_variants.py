"""Variants of SFMoE that differ in one setting each: the plug-in of the ablation studies.

A study names algorithms, so every variant is one: SFMoE with other defaults, all written out, so that the records say
what a variant is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sfmoe_dg.algorithms.registry import ALGORITHMS
from sfmoe_dg.models.architectures.sf_moe import SFMoE

BASE: Mapping[str, Any] = {"moe_layers": "[S,F]x2", "num_experts": 6, "top_k": 2, "router": "linear"}
"""sf_moe_tiny_32 as it is."""

CHANGES: Mapping[str, Mapping[str, Any]] = {
    "SFMoE_base": {},
    "SFMoE_FFFS": {"moe_layers": "F*3,S"},
    "SFMoE_FSFS": {"moe_layers": "[F,S]x2"},
    "SFMoE_SSFF": {"moe_layers": "S*2,F*2"},
    "SFMoE_FFSS": {"moe_layers": "F*2,S*2"},
    "SFMoE_SSSS": {"moe_layers": "S*4"},
    "SFMoE_2_experts": {"num_experts": 2},
    "SFMoE_4_experts": {"num_experts": 4},
    "SFMoE_12_experts": {"num_experts": 12},
    "SFMoE_top_1": {"top_k": 1},
    "SFMoE_top_4": {"top_k": 4},
    "SFMoE_cosine": {"router": "cosine"},
}


for _name, _changes in CHANGES.items():
    ALGORITHMS.register(_name, replace(SFMoE, text="SFMoE with one setting changed.", defaults={**BASE, **_changes}))
