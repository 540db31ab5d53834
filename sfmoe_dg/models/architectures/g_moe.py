"""GMoE (ICLR 2023): SF-MoE's later form, DeiT with two sparse blocks and cosine routers.

Sparse blocks ``F*8,[S,F]x2``, six experts, top 1, noise N(0, 1)/E and the loss 0.01 · ½(CV²(importance) + CV²(load))
are those of the ICLR code. The one combine weight is the raw softmax value.

Training drops nothing by default: the buffers of the authors' code served its dispatch. They are
``capacity_ratio=1.5, allocation='batch_priority'`` here. Evaluation is dropless.
"""

from __future__ import annotations

from typing import Any

from timm.models import generate_default_cfgs

from sfmoe_dg.models.architectures.preset import Preset, lr_and_weight_decay
from sfmoe_dg.models.architectures.sizes import SMALL, TINY, cfg, tiny_cfg
from sfmoe_dg.models.architectures.vision_transformer import SparseVisionTransformer, create_sparse_vit
from sfmoe_dg.models.moe.hparams import moe_model

_ROUTING = {
    "num_experts": 6,
    "top_k": 1,
    "router": "cosine",
    "routing_loss": "importance_load",
    "routing_loss_weight": 0.01,
    "routing_options": {"noise": 1.0},
    "expert_drop": 0.1,
    "drop_path_rate": 0.1,
}

default_cfgs = generate_default_cfgs(
    {
        "g_moe_small_patch16_224.deit_in1k": cfg("timm/deit_small_patch16_224.fb_in1k"),
        "g_moe_tiny_32.untrained": tiny_cfg(),
    }
)


@moe_model()
def g_moe_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> SparseVisionTransformer:
    """GMoE-S/16: DeiT-S with F*8,[S,F]x2, six experts, top 1, cosine router"""
    return create_sparse_vit(
        "g_moe_small_patch16_224", pretrained, {**SMALL, **_ROUTING, "moe_layers": "F*8,[S,F]x2"}, kwargs
    )


@moe_model()
def g_moe_tiny_32(pretrained: bool = False, **kwargs: Any) -> SparseVisionTransformer:
    """GMoE for 28–32 px: 4 blocks [S,F]x2, top 1, cosine router, convolutional stem"""
    return create_sparse_vit("g_moe_tiny_32", pretrained, {**TINY, **_ROUTING, "moe_layers": "[S,F]x2"}, kwargs)


GMoE = Preset(
    """Cross-entropy plus the importance and load losses of its experts.

    The learning rates and weight decays are those of the authors' last code, which is GMoE's.
    """,
    paper="Li et al., Sparse Mixture-of-Experts are Domain Generalizable Learners, 2023",
    backbones=("g_moe_small_patch16_224", "g_moe_tiny_32"),
    dataset_defaults=lr_and_weight_decay(
        {
            "PACS": (3e-5, 1e-6),
            "VLCS": (3e-5, 1e-6),
            "OfficeHome": (1e-5, 1e-6),
            "TerraIncognita": (5e-5, 1e-4),
            "DomainNet": (5e-5, 0.0),
            "CUBDG": (5e-5, 0.0),
        }
    ),
)
