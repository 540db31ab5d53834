"""SF-MoE (arXiv 2206.04046): DeiT with sparse blocks between dense ones.

Sparse blocks ``[S,F]x6`` are the paper's; six experts, top 2, a linear router without noise and the balance loss
0.01 · E² · mean(P·f) are those of the June 2022 code.

The two combine weights sum to one (June 2022 code), so an upcycled model starts exactly where the dense one is. The
June 2022 variant with every third block sparse is ``moe_layers='every-3'``. Not taken over from that code: it drops the
second expert at random, in tests too.

Training drops nothing by default: the buffers of the authors' code served its dispatch. They are
``capacity_ratio=0.625, routing_options={'group': 'image', 'rounding': 'floor', 'min_capacity': 4}`` here (June 2022:
1.25 tokens per token and E, not counting K). Evaluation is dropless, hence deterministic and independent of the rest of
the batch.
"""

from __future__ import annotations

from typing import Any

from timm.models import generate_default_cfgs

from sfmoe_dg.models.architectures.preset import Preset, lr_and_weight_decay
from sfmoe_dg.models.architectures.sizes import BASE, SMALL, TINY, cfg, tiny_cfg
from sfmoe_dg.models.architectures.vision_transformer import SparseVisionTransformer, create_sparse_vit
from sfmoe_dg.models.moe.hparams import moe_model

ROUTING = {
    "num_experts": 6,
    "top_k": 2,
    "router": "linear",
    "routing_loss": "balance",
    "routing_loss_weight": 0.01,
    "routing_options": {"renormalize": True},
}
"""The authors' code of June 2022."""

default_cfgs = generate_default_cfgs(
    {
        "sf_moe_small_patch16_224.deit_in1k": cfg("timm/deit_small_patch16_224.fb_in1k"),
        "sf_moe_base_patch16_224.deit_in1k": cfg("timm/deit_base_patch16_224.fb_in1k"),
        "sf_moe_tiny_32.untrained": tiny_cfg(),
    }
)


@moe_model()
def sf_moe_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> SparseVisionTransformer:
    """SF-MoE-S/16: DeiT-S with [S,F]x6, six experts, top 2"""
    return create_sparse_vit(
        "sf_moe_small_patch16_224", pretrained, {**SMALL, **ROUTING, "moe_layers": "[S,F]x6"}, kwargs
    )


@moe_model()
def sf_moe_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> SparseVisionTransformer:
    """SF-MoE-B/16: DeiT-B with [S,F]x6, six experts, top 2"""
    return create_sparse_vit(
        "sf_moe_base_patch16_224", pretrained, {**BASE, **ROUTING, "moe_layers": "[S,F]x6"}, kwargs
    )


@moe_model()
def sf_moe_tiny_32(pretrained: bool = False, **kwargs: Any) -> SparseVisionTransformer:
    """SF-MoE for 28–32 px: 4 blocks [S,F]x2, width 64, convolutional stem"""
    return create_sparse_vit("sf_moe_tiny_32", pretrained, {**TINY, **ROUTING, "moe_layers": "[S,F]x2"}, kwargs)


SFMoE = Preset(
    """Cross-entropy plus the balance losses of its experts.

    The learning rates and weight decays are those of the experiments in the authors' code of June 2022.
    """,
    paper="Li et al., Sparse Fusion Mixture-of-Experts are Domain Generalizable Learners, 2022",
    backbones=("sf_moe_small_patch16_224", "sf_moe_tiny_32"),
    dataset_defaults=lr_and_weight_decay(
        {
            "PACS": (3e-5, 0.0),
            "VLCS": (1e-5, 1e-6),
            "OfficeHome": (3e-5, 1e-6),
            "TerraIncognita": (3e-5, 1e-4),
            "DomainNet": (3e-5, 0.0),
            "CUBDG": (5e-5, 0.0),
        }
    ),
)
