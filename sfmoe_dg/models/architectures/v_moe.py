"""V-MoE (arXiv 2106.05974): ViT with the feed-forward networks of some blocks turned into experts.

| | width | blocks | hidden | heads |       every model: pre-norm, class token, learned positions, GELU (tanh form),
|---|---|---|---|---|                         LayerNorm eps 1e-6, inputs in [-1, 1] (mean = std = 0.5)
| S | 512 | 8 | 2048 | 8 |
| B | 768 | 12 | 3072 | 12 |                  ``moe_layers='every-2'`` (1, 3, 5, …), 32 experts, top 2 by default; the
| L | 1024 | 24 | 4096 | 16 |                 released ones have 8 experts, in 'last-2' (S/32) or 'every-2' (B/16);
| H | 1280 | 32 | 5120 | 16 |                 ``moe_layers=()`` is the dense twin
| 15B | 1408 | 48 | 6400 | 16 |

V-MoE's S is not timm's or DeiT's S. Combine weights are raw softmax values; training adds noise N(0, 1)/E to the
logits, and the importance and load losses with weight 0.005 each.

Buffers hold ``ceil(K·C·tokens/E)`` tokens rounded up to a multiple of 4, per expert and group of 8 images. Training
drops by the authors' fine-tuning ratio C = 1.5, since training here is fine-tuning; ``capacity_ratio=1.05`` is their
pre-training's, ``'dropless'`` drops nothing, ``allocation='batch_priority'`` is BPR. Evaluation is dropless (the
authors evaluate with C = 4, where next to nothing is dropped), hence independent of the rest of the batch;
``set_routing(k=…, capacity_ratio=…, allocation=…)`` changes all three on a trained model.

Weights: the released checkpoints (``sfmoe-dg convert-vmoe``, then the file as ``pretrained``) where the sizes fit:
S/32, ``last-2``, and B/16, ``every-2``, eight experts each; otherwise B, L and H upcycle timm's dense ViT.

Legend: B images, S tokens of one image, D width.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import lecun_normal_
from timm.models import generate_default_cfgs
from timm.models.vision_transformer import checkpoint_filter_fn as timm_filter_fn
from torch import Tensor, nn

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.models.architectures.preset import Preset
from sfmoe_dg.models.architectures.settings import FFNSettings
from sfmoe_dg.models.architectures.sizes import HALF, TINY, cfg, tiny_cfg
from sfmoe_dg.models.architectures.vision_transformer import SparseVisionTransformer, create_sparse_vit
from sfmoe_dg.models.moe.hparams import moe_model
from sfmoe_dg.models.moe.layers import LinearExperts
from sfmoe_dg.models.moe.routers import LinearRouter


@dataclass(frozen=True)
class VMoESettings(FFNSettings):
    """V-MoE's arguments about experts, with the defaults of the authors' code."""

    moe_layers: str | Sequence[int] = "every-2"
    num_experts: int = 32
    capacity_ratio: float | str | None = 1.5
    routing_loss: str = "importance_load"
    routing_options: Mapping[str, Any] = field(default_factory=lambda: {"noise": 1.0, "group": 8, "rounding": "ceil4"})
    expert_init: Callable[[Tensor], Any] | None = nn.init.xavier_uniform_


class VMoEViT(SparseVisionTransformer):
    """A vision transformer with V-MoE's defaults, initial values and head.

    Args:
        pre_logits: a layer D → D with tanh before the classifier, as in the authors' pre-training.
        arguments: the fields of :class:`VMoESettings`, and the keyword arguments of timm's ``VisionTransformer``.

    Raises:
        UserError: on a value that is not allowed.
    """

    defaults = VMoESettings()

    def __init__(self, *, pre_logits: bool = False, **arguments: Any) -> None:
        super().__init__(**{"act_layer": "gelu_tanh", "weight_init": "jax", **arguments})
        self.pre_logits: nn.Module = nn.Identity()
        if pre_logits:
            fc = nn.Linear(self.embed_dim, self.embed_dim, device=arguments.get("device"), dtype=arguments.get("dtype"))
            self.pre_logits = nn.Sequential(OrderedDict(fc=fc, tanh=nn.Tanh()))
            _flax_dense(fc)

    def init_weights(self, mode: str = "", needs_reset: bool = True) -> None:
        """The authors' initial values; all experts of a layer are identical.

        Xavier-uniform kernels, LeCun-normal for patches, router and pre-logits, biases of feed-forward layers
        N(0, 1e-6²), class token and classifier zero.
        """
        super().init_weights(mode, needs_reset)
        if not (mode or self.weight_init_mode).startswith("jax"):
            return
        if self.cls_token is not None:
            nn.init.zeros_(self.cls_token)
        if self.pos_embed is not None:
            nn.init.normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, LinearExperts) and module.bias is not None:
                with torch.no_grad():
                    module.bias.copy_(nn.init.normal_(torch.empty_like(module.bias[0]), std=1e-6))
            elif isinstance(module, LinearRouter):
                lecun_normal_(module.weight)
        fc = getattr(getattr(self, "pre_logits", None), "fc", None)
        if fc is not None:
            _flax_dense(fc)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens ``[B, S, D]`` → logits ``[B, classes]``, or what the classifier sees, ``[B, D]``."""
        x = self.pre_logits(self.fc_norm(self.pool(x)))
        x = self.head_drop(x)
        return x if pre_logits else self.head(x)

    def fit_weights(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Fit a file's weights to this network, for :func:`sfmoe_dg.models.weights.pretrained.load_pretrained`.

        Positions are resized to its resolution. A pre-logits layer is left out together with the file's classifier, if
        the network has neither.

        Raises:
            UserError: if the file has a pre-logits layer, the network has none, yet wants the file's classifier.
        """
        state = dict(state)
        positions = state.get("pos_embed")
        if positions is not None and self.pos_embed is not None and positions.shape[1] != self.pos_embed.shape[1]:
            state["pos_embed"] = resize_position_embedding(positions, self.patch_embed.grid_size)
        pre_logits = {key: state.pop(key) for key in list(state) if key.startswith("pre_logits.")}
        # timm's filter knows older names of keys; it must not see the pre-logits layer, which it drops without a word.
        state = timm_filter_fn(state, self)
        if pre_logits and isinstance(self.pre_logits, nn.Identity):
            head = state.get("head.weight")
            if head is not None and isinstance(self.head, nn.Linear) and head.shape == self.head.weight.shape:
                raise UserError(
                    "the file's classifier sits on a pre-logits layer; build the model with pre_logits=True"
                )
            return {key: value for key, value in state.items() if key not in ("head.weight", "head.bias")}
        return {**state, **pre_logits}


def _flax_dense(layer: nn.Linear) -> None:
    lecun_normal_(layer.weight)
    nn.init.zeros_(layer.bias)


def resize_position_embedding(embedding_1SD: Tensor, grid: tuple[int, int]) -> Tensor:
    """Position embeddings of a class token and a square grid, for another grid; ``[1, 1 + h·w, D]``.

    Linear between the old positions, corner on corner, as the authors fine-tune (timm: bicubic, edge on edge).

    Raises:
        UserError: if the given grid is not square.
    """
    token_11D, old_1SD = embedding_1SD[:, :1], embedding_1SD[:, 1:]
    side = math.isqrt(old_1SD.shape[1])
    if side * side != old_1SD.shape[1]:
        raise UserError(
            f"a position embedding of {embedding_1SD.shape[1]} tokens is not a class token and a square grid; "
            "only those can be resized"
        )
    if grid == (side, side):
        return embedding_1SD
    old_1Dhw = old_1SD.float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
    new_1Dhw = F.interpolate(old_1Dhw, size=grid, mode="bilinear", align_corners=True)
    return torch.cat([token_11D, new_1Dhw.flatten(2).transpose(1, 2).to(old_1SD.dtype)], 1)


_SMALL = {"embed_dim": 512, "depth": 8, "num_heads": 8}
_BASE = {"embed_dim": 768, "depth": 12, "num_heads": 12}
_LARGE = {"embed_dim": 1024, "depth": 24, "num_heads": 16}
_HUGE = {"embed_dim": 1280, "depth": 32, "num_heads": 16}

SIZES: Mapping[str, Mapping[str, Any]] = {
    "v_moe_small_patch32_224": {**_SMALL, "patch_size": 32},
    "v_moe_base_patch32_224": {**_BASE, "patch_size": 32},
    "v_moe_base_patch16_224": {**_BASE, "patch_size": 16},
    "v_moe_large_patch32_224": {**_LARGE, "patch_size": 32},
    "v_moe_large_patch16_224": {**_LARGE, "patch_size": 16},
    "v_moe_huge_patch14_224": {**_HUGE, "patch_size": 14},
    "v_moe_15b_patch14_224": {
        "embed_dim": 1408,
        "depth": 48,
        "num_heads": 16,
        "mlp_ratio": 6400 / 1408,
        "patch_size": 14,
    },
    "v_moe_tiny_32": {**TINY, "num_experts": 8},
}
"""Every registered model and what distinguishes it; the hidden width is four times the width unless said."""


def cfg_for(img_size: int, num_classes: int) -> dict[str, Any]:
    """timm's record of a model whose weights are in a file."""
    return _cfg(None, input_size=(3, img_size, img_size), num_classes=num_classes)


def _cfg(hub_id: str | None, **changes: Any) -> dict[str, Any]:
    return cfg(hub_id, mean=HALF, std=HALF, **changes)


_RELEASED = "gs://vmoe_checkpoints/vmoe_s32_last2_ilsvrc2012_randaug_light1"
default_cfgs = generate_default_cfgs(
    {
        "v_moe_small_patch32_224.vmoe_in1k": _cfg(None, url=_RELEASED),
        "v_moe_base_patch32_224.augreg_in21k": _cfg("timm/vit_base_patch32_224.augreg_in21k"),
        "v_moe_base_patch16_224.augreg_in21k": _cfg("timm/vit_base_patch16_224.augreg_in21k"),
        "v_moe_large_patch32_224.orig_in21k": _cfg("timm/vit_large_patch32_224.orig_in21k"),
        "v_moe_large_patch16_224.augreg_in21k": _cfg("timm/vit_large_patch16_224.augreg_in21k"),
        "v_moe_huge_patch14_224.orig_in21k": _cfg("timm/vit_huge_patch14_224.orig_in21k"),
        "v_moe_15b_patch14_224.untrained": _cfg(None),
        "v_moe_tiny_32.untrained": tiny_cfg(),
    }
)


def _create(name: str, pretrained: bool, kwargs: Mapping[str, Any]) -> VMoEViT:
    return create_sparse_vit(name, pretrained, SIZES[name], kwargs, model=VMoEViT)


@moe_model()
def v_moe_small_patch32_224(pretrained: bool = False, **kwargs: Any) -> VMoEViT:
    """V-MoE-S/32: 8 blocks of width 512, every second one with 32 experts, top 2"""
    return _create("v_moe_small_patch32_224", pretrained, kwargs)


@moe_model()
def v_moe_base_patch32_224(pretrained: bool = False, **kwargs: Any) -> VMoEViT:
    """V-MoE-B/32: 12 blocks of width 768, every second one with 32 experts, top 2"""
    return _create("v_moe_base_patch32_224", pretrained, kwargs)


@moe_model()
def v_moe_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> VMoEViT:
    """V-MoE-B/16: 12 blocks of width 768, every second one with 32 experts, top 2"""
    return _create("v_moe_base_patch16_224", pretrained, kwargs)


@moe_model()
def v_moe_large_patch32_224(pretrained: bool = False, **kwargs: Any) -> VMoEViT:
    """V-MoE-L/32: 24 blocks of width 1024, every second one with 32 experts, top 2"""
    return _create("v_moe_large_patch32_224", pretrained, kwargs)


@moe_model()
def v_moe_large_patch16_224(pretrained: bool = False, **kwargs: Any) -> VMoEViT:
    """V-MoE-L/16: 24 blocks of width 1024, every second one with 32 experts, top 2"""
    return _create("v_moe_large_patch16_224", pretrained, kwargs)


@moe_model()
def v_moe_huge_patch14_224(pretrained: bool = False, **kwargs: Any) -> VMoEViT:
    """V-MoE-H/14: 32 blocks of width 1280, every second one with 32 experts, top 2"""
    return _create("v_moe_huge_patch14_224", pretrained, kwargs)


@moe_model()
def v_moe_15b_patch14_224(pretrained: bool = False, **kwargs: Any) -> VMoEViT:
    """V-MoE-15B/14: 48 blocks of width 1408, every second one with 32 experts, top 2"""
    return _create("v_moe_15b_patch14_224", pretrained, kwargs)


@moe_model()
def v_moe_tiny_32(pretrained: bool = False, **kwargs: Any) -> VMoEViT:
    """V-MoE for 28–32 px: 4 blocks, every second one with 8 experts, top 2, width 64, convolutional stem"""
    return _create("v_moe_tiny_32", pretrained, kwargs)


VMoE = Preset(
    """Cross-entropy plus importance and load losses of its experts.

    At 224 px the default is the smallest released model, S/32 with eight experts in blocks 5 and 7, which
    ``sfmoe-dg convert-vmoe`` makes readable; ``v_moe_base_patch16_224`` starts from a dense ViT of timm's instead.
    """,
    paper="Riquelme et al., Scaling Vision with Sparse Mixture of Experts, 2021",
    backbones=("v_moe_small_patch32_224", "v_moe_tiny_32"),
    large_defaults={"moe_layers": "last-2", "num_experts": 8},
    needs="weights from convert-vmoe, to start pre-trained",
)
