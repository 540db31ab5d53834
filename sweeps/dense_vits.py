"""The dense transformers of Table 1 of the SF-MoE paper: the plug-in of ``sf_moe_table1.toml``.

A study names algorithms, so each is one: ERM on the network that SF-MoE starts from, with SF-MoE's learning rates and
weight decays, so that only the experts differ. Which ones the paper gave its dense networks is not known to us.
"""

from __future__ import annotations

from dataclasses import replace

from sfmoe_dg.algorithms.registry import ALGORITHMS
from sfmoe_dg.models.architectures.sf_moe import SFMoE

ViT_S16 = replace(SFMoE, text="ERM on DeiT-S/16.", backbones=("deit_small_patch16_224", "vit_tiny_32"))
HybridViT = replace(SFMoE, text="ERM on R26+ViT-S/32.", backbones=("vit_small_r26_s32_224", "vit_tiny_32"))

ALGORITHMS.register("ViT_S16", ViT_S16)
ALGORITHMS.register("HybridViT", HybridViT)
