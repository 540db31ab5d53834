"""SF-MoE (arXiv 2206.04046) and GMoE (ICLR 2023): DeiT with sparse blocks between dense ones.

| model | sparse blocks | E, K | router | balance loss | source |
|---|---|---|---|---|---|
| ``sf_moe_*`` | ``[S,F]x6`` | 6, 2 | linear, no noise | 0.01 · E² · mean(P·f) | blocks: paper; rest: June 2022 code |
| ``g_moe_*`` | ``F*8,[S,F]x2`` | 6, 1 | cosine, noise N(0,1)/E | 0.01 · ½(CV²(importance) + CV²(load)) | ICLR code |

SF-MoE's two combine weights sum to one (June 2022 code), so an upcycled model starts exactly where the dense one is;
GMoE keeps the raw softmax value of its one expert. The June 2022 variant with every third block sparse is
``moe_layers='every-3'``. Not taken over from the June code: dropping the second expert at random, in tests too.

Training drops nothing by default: the buffers of the authors' codes served their dispatch. They are reachable as
``capacity_ratio=0.625, routing_options={'group': 'image', 'rounding': 'floor', 'min_capacity': 4}`` (June 2022: 1.25
tokens per token and E, not counting K) and ``capacity_ratio=1.5, allocation='batch_priority'`` (GMoE). Evaluation is
dropless, hence deterministic and independent of the rest of the batch.
"""

from __future__ import annotations

from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import generate_default_cfgs, register_model

from sfmoe_dg.models.architectures.stem import ConvStem
from sfmoe_dg.models.architectures.vision_transformer import SparseVisionTransformer, create_sparse_vit

SMALL = {"patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 6}
BASE = {"patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12}
"""Sizes of DeiT's S and B."""
TINY: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 64,
    "depth": 4,
    "num_heads": 4,
    "embed_layer": ConvStem,
    "global_pool": "avg",
    "pool_include_prefix": True,
}
"""Sizes that all tiny twins share: 4×4 tokens and the class token; their mean learns in half the steps that the class
token alone needs (on StyledDigits)."""

_SF_MOE = {
    "num_experts": 6,
    "top_k": 2,
    "router": "linear",
    "routing_loss": "balance",
    "routing_loss_weight": 0.01,
    "routing_options": {"renormalize": True},
}
_G_MOE = {
    "num_experts": 6,
    "top_k": 1,
    "router": "cosine",
    "routing_loss": "importance_load",
    "routing_loss_weight": 0.01,
    "routing_options": {"noise": 1.0},
    "expert_drop": 0.1,
    "drop_path_rate": 0.1,
}


def cfg(hub_id: str | None, **changes: Any) -> dict[str, Any]:
    """timm's record of where weights come from and which input they want."""
    return {
        "hf_hub_id": hub_id,
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "fixed_input_size": True,
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        **changes,
    }


def tiny_cfg() -> dict[str, Any]:
    """The record of a tiny twin: no weights exist, inputs are centred."""
    half = (0.5, 0.5, 0.5)
    return cfg(None, input_size=(3, 32, 32), num_classes=10, mean=half, std=half, first_conv=None)


default_cfgs = generate_default_cfgs(
    {
        "sf_moe_small_patch16_224.deit_in1k": cfg("timm/deit_small_patch16_224.fb_in1k"),
        "sf_moe_base_patch16_224.deit_in1k": cfg("timm/deit_base_patch16_224.fb_in1k"),
        "g_moe_small_patch16_224.deit_in1k": cfg("timm/deit_small_patch16_224.fb_in1k"),
        "sf_moe_tiny_32.untrained": tiny_cfg(),
        "g_moe_tiny_32.untrained": tiny_cfg(),
    }
)


@register_model
def sf_moe_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> SparseVisionTransformer:
    """SF-MoE-S/16: DeiT-S with [S,F]x6, six experts, top 2"""
    return create_sparse_vit(
        "sf_moe_small_patch16_224", pretrained, {**SMALL, **_SF_MOE, "moe_layers": "[S,F]x6"}, kwargs
    )


@register_model
def sf_moe_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> SparseVisionTransformer:
    """SF-MoE-B/16: DeiT-B with [S,F]x6, six experts, top 2"""
    return create_sparse_vit(
        "sf_moe_base_patch16_224", pretrained, {**BASE, **_SF_MOE, "moe_layers": "[S,F]x6"}, kwargs
    )


@register_model
def g_moe_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> SparseVisionTransformer:
    """GMoE-S/16: DeiT-S with F*8,[S,F]x2, six experts, top 1, cosine router"""
    return create_sparse_vit(
        "g_moe_small_patch16_224", pretrained, {**SMALL, **_G_MOE, "moe_layers": "F*8,[S,F]x2"}, kwargs
    )


@register_model
def sf_moe_tiny_32(pretrained: bool = False, **kwargs: Any) -> SparseVisionTransformer:
    """SF-MoE for 28–32 px: 4 blocks [S,F]x2, width 64, convolutional stem"""
    return create_sparse_vit("sf_moe_tiny_32", pretrained, {**TINY, **_SF_MOE, "moe_layers": "[S,F]x2"}, kwargs)


@register_model
def g_moe_tiny_32(pretrained: bool = False, **kwargs: Any) -> SparseVisionTransformer:
    """GMoE for 28–32 px: 4 blocks [S,F]x2, top 1, cosine router, convolutional stem"""
    return create_sparse_vit("g_moe_tiny_32", pretrained, {**TINY, **_G_MOE, "moe_layers": "[S,F]x2"}, kwargs)
