"""The dense twin of the tiny mixtures of experts."""

from __future__ import annotations

from typing import Any

from timm.models import generate_default_cfgs

from sfmoe_dg.models.architectures.sizes import TINY, tiny_cfg
from sfmoe_dg.models.architectures.vision_transformer import SparseVisionTransformer, create_sparse_vit
from sfmoe_dg.models.moe.hparams import moe_model

default_cfgs = generate_default_cfgs({"vit_tiny_32.untrained": tiny_cfg()})


@moe_model()
def vit_tiny_32(pretrained: bool = False, **kwargs: Any) -> SparseVisionTransformer:
    """dense ViT for 28–32 px: 4 blocks, width 64, convolutional stem"""
    return create_sparse_vit("vit_tiny_32", pretrained, {**TINY, "moe_layers": ()}, kwargs)
