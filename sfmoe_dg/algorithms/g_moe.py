"""GMoE: SF-MoE's later form (ICLR 2023), ERM on a ViT with two sparse blocks and cosine routers."""

from __future__ import annotations

from sfmoe_dg.algorithms.erm import ERM
from sfmoe_dg.algorithms.sf_moe import backbone_for
from sfmoe_dg.hparams import Hparam, log10_uniform

# Learning rate and weight decay of the authors' last code (SF-MoE reference, Training).
SETTINGS = {
    "PACS": (3e-5, 1e-6),
    "VLCS": (3e-5, 1e-6),
    "OfficeHome": (1e-5, 1e-6),
    "TerraIncognita": (5e-5, 1e-4),
    "DomainNet": (5e-5, 0.0),
    "CUBDG": (5e-5, 0.0),
}


class GMoE(ERM):
    """Cross-entropy plus the importance and load losses of its experts."""

    paper = "Li et al., Sparse Mixture-of-Experts are Domain Generalizable Learners, 2023"

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        table = super().hparam_table(dataset)
        table["backbone"] = Hparam(backbone_for(dataset, "g_moe_small_patch16_224", "g_moe_tiny_32"))
        if dataset in SETTINGS:
            lr, weight_decay = SETTINGS[dataset]
            table["lr"] = Hparam(lr, log10_uniform(-5, -3.5))
            table["weight_decay"] = Hparam(weight_decay, log10_uniform(-6, -2))
        return table
