"""HybridSFMoE: ERM on a convolutional stem under a sparse-fusion mixture-of-experts ViT."""

from __future__ import annotations

from sfmoe_dg.algorithms.presets.sf_moe import SFMoE


class HybridSFMoE(SFMoE):
    """SFMoE, its learning rates and weight decays, on R26+ViT-S/32."""

    backbones = ("hybrid_sf_moe_small_r26_s32_224", "hybrid_sf_moe_tiny_32")
