"""VMoE: ERM on a V-MoE."""

from __future__ import annotations

from dataclasses import replace

from sfmoe_dg.algorithms.erm import ERM
from sfmoe_dg.algorithms.presets.sf_moe import backbone_for
from sfmoe_dg.runs.hparams import Hparam


class VMoE(ERM):
    """Cross-entropy plus importance and load losses of its experts.

    At 224 px the default is the smallest released model, S/32 with eight experts in blocks 5 and 7, which
    ``sfmoe-dg convert-vmoe`` makes readable; ``v_moe_base_patch16_224`` starts from a dense ViT of timm's instead.
    """

    paper = "Riquelme et al., Scaling Vision with Sparse Mixture of Experts, 2021"
    needs = "weights from convert-vmoe, to start pre-trained"

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        table = super().hparam_table(dataset)
        backbone = backbone_for(dataset, "v_moe_small_patch32_224", "v_moe_tiny_32")
        table["backbone"] = Hparam(backbone)
        if backbone != "v_moe_tiny_32":
            table["moe_layers"] = replace(table["moe_layers"], default="last-2")
            table["num_experts"] = replace(table["num_experts"], default=8)
        return table
