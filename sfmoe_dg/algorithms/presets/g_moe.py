"""GMoE: SF-MoE's later form (ICLR 2023), ERM on a ViT with two sparse blocks and cosine routers."""

from __future__ import annotations

from sfmoe_dg.algorithms.presets.sf_moe import SFMoE


class GMoE(SFMoE):
    """Cross-entropy plus the importance and load losses of its experts.

    ``settings``, learning rate and weight decay, are those of the authors' last code, which is GMoE's.
    """

    paper = "Li et al., Sparse Mixture-of-Experts are Domain Generalizable Learners, 2023"
    backbones = ("g_moe_small_patch16_224", "g_moe_tiny_32")
    settings = {  # noqa: RUF012 (a ClassVar of the base class)
        "PACS": (3e-5, 1e-6),
        "VLCS": (3e-5, 1e-6),
        "OfficeHome": (1e-5, 1e-6),
        "TerraIncognita": (5e-5, 1e-4),
        "DomainNet": (5e-5, 0.0),
        "CUBDG": (5e-5, 0.0),
    }
