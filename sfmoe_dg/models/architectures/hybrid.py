"""Hybrid SF-MoE (arXiv 2206.04046): a ResNetV2 stem under a ViT with sparse blocks.

| model | stem | blocks | sparse blocks | weights |
|---|---|---|---|---|
| ``hybrid_sf_moe_small_r26_s32_224`` | ResNetV2 2,2,2,2; 49 tokens | 12 × 384 | 2,5,8,11 | R26+ViT-S/32, 21k, 1k |
| ``hybrid_sf_moe_base_r50_s16_224`` | ResNetV2 3,4,9; 196 tokens | 12 × 768 | 2,5,8,11 | R50+ViT-B/16, 21k |
| ``hybrid_sf_moe_tiny_32`` | residual convolutions; 16 tokens | 4 × 64 | 1,3 | none |

The paper writes "R26-S/16"; its code (June 2022) loads R26+ViT-S/32, which the name here says. Sparse blocks and E = 6
are that code's; its other setting is ``moe_layers=(5, 11)``. Routing is SF-MoE's (``sf_moe.py``). The weights expect
pictures normalised with mean = std = 0.5, not ImageNet's, and the models say so (``Featurizer.normalization``).

Legend: B images, C channels, H and W height and width.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from timm.layers import HybridEmbed, StdConv2dSame
from timm.models import generate_default_cfgs
from timm.models.resnetv2 import ResNetV2
from torch import Tensor, nn

from sfmoe_dg.models.architectures.sf_moe import ROUTING, SFMoE
from sfmoe_dg.models.architectures.sizes import HALF, TINY, cfg, tiny_cfg
from sfmoe_dg.models.architectures.stem import ConvStem
from sfmoe_dg.models.architectures.vision_transformer import SparseVisionTransformer, create_sparse_vit
from sfmoe_dg.models.moe.hparams import moe_model

_SMALL = {"patch_size": 1, "embed_dim": 384, "depth": 12, "num_heads": 6, "moe_layers": "every-3"}
_BASE = {"patch_size": 1, "embed_dim": 768, "depth": 12, "num_heads": 12, "moe_layers": "every-3"}


class ResidualUnit(nn.Module):
    """Two 3×3 convolutions beside the identity, normalised and activated before each (ResNetV2's order)."""

    def __init__(self, width: int, **dd: Any) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.GroupNorm(4, width, **dd), nn.GELU(), nn.Conv2d(width, width, 3, padding=1, **dd)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` → the same."""
        return x + self.layers(x)


class ResidualStem(ConvStem):
    """The convolutional stem of the tiny twins with a residual unit at each of its two inner resolutions."""

    def __init__(
        self, img_size: Any = 32, patch_size: Any = 8, in_chans: int = 3, embed_dim: int = 64, **kwargs: Any
    ) -> None:
        super().__init__(img_size, patch_size, in_chans, embed_dim, **kwargs)
        dd: dict[str, Any] = {key: kwargs.get(key) for key in ("device", "dtype")}
        low, high = embed_dim // 4, embed_dim // 2
        self.proj = nn.Sequential(  # type: ignore[assignment]
            nn.Conv2d(in_chans, low, 3, stride=2, padding=1, **dd),
            ResidualUnit(low, **dd),
            nn.Conv2d(low, high, 3, stride=2, padding=1, **dd),
            ResidualUnit(high, **dd),
            nn.GroupNorm(4, high, **dd),
            nn.GELU(),
            nn.Conv2d(high, embed_dim, 3, stride=2, padding=1, **dd),
        )


def _hybrid_cfg(hub_id: str, **changes: Any) -> dict[str, Any]:
    return cfg(hub_id, mean=HALF, std=HALF, crop_pct=0.9, first_conv="patch_embed.backbone.stem.conv", **changes)


default_cfgs = generate_default_cfgs(
    {
        "hybrid_sf_moe_small_r26_s32_224.augreg_in21k_ft_in1k": _hybrid_cfg(
            "timm/vit_small_r26_s32_224.augreg_in21k_ft_in1k"
        ),
        "hybrid_sf_moe_base_r50_s16_224.orig_in21k": _hybrid_cfg("timm/vit_base_r50_s16_224.orig_in21k"),
        "hybrid_sf_moe_tiny_32.untrained": tiny_cfg(),
    }
)


def _create(
    name: str, pretrained: bool, stages: tuple[int, ...], defaults: dict[str, Any], kwargs: dict[str, Any]
) -> SparseVisionTransformer:
    """timm's hybrid embedding (its names, so that its weights fit) under a sparse ViT."""
    dd = {key: kwargs[key] for key in ("device", "dtype") if key in kwargs}
    backbone = ResNetV2(
        layers=list(stages),
        num_classes=0,
        global_pool="",
        in_chans=kwargs.get("in_chans", 3),
        preact=False,
        stem_type="same",
        conv_layer=partial(StdConv2dSame, eps=1e-8),
        **dd,
    )
    embed = partial(HybridEmbed, backbone=backbone)
    built: SparseVisionTransformer = create_sparse_vit(
        name, pretrained, {**defaults, **ROUTING, "embed_layer": embed}, kwargs
    )
    return built


@moe_model()
def hybrid_sf_moe_small_r26_s32_224(pretrained: bool = False, **kwargs: Any) -> SparseVisionTransformer:
    """Hybrid SF-MoE: R26+ViT-S/32 with every third block sparse, six experts, top 2"""
    return _create("hybrid_sf_moe_small_r26_s32_224", pretrained, (2, 2, 2, 2), _SMALL, kwargs)


@moe_model()
def hybrid_sf_moe_base_r50_s16_224(pretrained: bool = False, **kwargs: Any) -> SparseVisionTransformer:
    """Hybrid SF-MoE: R50+ViT-B/16 with every third block sparse, six experts, top 2"""
    return _create("hybrid_sf_moe_base_r50_s16_224", pretrained, (3, 4, 9), _BASE, kwargs)


@moe_model()
def hybrid_sf_moe_tiny_32(pretrained: bool = False, **kwargs: Any) -> SparseVisionTransformer:
    """Hybrid SF-MoE for 28–32 px: residual convolutional stem, 4 blocks [F,S]x2, width 64"""
    defaults = {**TINY, **ROUTING, "moe_layers": "[F,S]x2", "embed_layer": ResidualStem}
    built: SparseVisionTransformer = create_sparse_vit("hybrid_sf_moe_tiny_32", pretrained, defaults, kwargs)
    return built


HybridSFMoE = replace(
    SFMoE,
    text="SFMoE, its learning rates and weight decays, on R26+ViT-S/32.",
    backbones=("hybrid_sf_moe_small_r26_s32_224", "hybrid_sf_moe_tiny_32"),
)
