"""HybridSFMoE: ERM on a convolutional stem under a sparse-fusion mixture-of-experts ViT."""

from __future__ import annotations

from sfmoe_dg.algorithms.sf_moe import SFMoE, backbone_for
from sfmoe_dg.hparams import Hparam


class HybridSFMoE(SFMoE):
    """SFMoE, its learning rates and weight decays, on R26+ViT-S/32."""

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        table = super().hparam_table(dataset)
        table["backbone"] = Hparam(backbone_for(dataset, "hybrid_sf_moe_small_r26_s32_224", "hybrid_sf_moe_tiny_32"))
        return table
