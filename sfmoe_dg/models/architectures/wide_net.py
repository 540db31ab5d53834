"""WideNet (arXiv 2107.11817): one attention, one router and one set of experts serve all blocks of a ViT.

| model | width | blocks | heads | experts' hidden width |  every block has its own LayerNorms: 2L + 1 in all;
|---|---|---|---|---|                                      E = 4, K = 2, raw combine weights, noise N(0, 1)/E;
| B | 768 | 12 | 12 | 4096 |                               0.01 · E · Σ m_i P_i for each of the L routings
| L | 1024 | 24 | 16 | 4096 |
| H | 1280 | 32 | 16 | 5120 |

What the authors' TensorFlow code does besides the paper, and what is done here:

- B's experts have 4096 hidden units, not 4 · 768: taken over (``expert_hidden``); a dense block has 4 · width.
- GAP head under a layer D → D with tanh: taken over (``representation_size``). The mean is over the patches.
- The class token is a constant zero vector (its position embedding is learned): taken over (``learned_class_token``).
- GELU after both layers of an expert: an option (``expert_final_act``), since the paper's expert ends linearly.
- 1001 classes: ``num_classes=1001`` (0 is "background"); the default is 1000.
- "H/14" has patches of 16 pixels: so does ``wide_net_huge_patch16_224``; ``patch_size=14`` is the name's.
- Buffers of ``int(C · K · tokens / E)``, C = 1.2, filled in token order over both choices:
  ``capacity_ratio=1.2, allocation='token_order'``. The default is dropless. Its positions start from 1, so that one
  slot of every buffer stays empty: not copied.

No weights are published, and a dense file's L different blocks do not fit one: WideNet starts from scratch.

Legend: B images, S tokens of one image, D width, L blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.layers import get_device_dtype
from timm.models import generate_default_cfgs
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.models.architectures.preset import Preset
from sfmoe_dg.models.architectures.settings import FFNSettings
from sfmoe_dg.models.architectures.sizes import HALF, TINY, cfg, tiny_cfg
from sfmoe_dg.models.architectures.vision_transformer import MoEBlock, SparseVisionTransformer, create_sparse_vit
from sfmoe_dg.models.moe.hparams import moe_model


class SharedBlock(Block):
    """A block whose attention, feed-forward part and perhaps norms belong to the model and serve other blocks too.

    Args:
        shared: attribute name → module. They are not registered here, so that each appears once in the model.
        kwargs: of timm's ``Block``.
    """

    def __init__(self, shared: Mapping[str, nn.Module], **kwargs: Any) -> None:
        nothing = dict.fromkeys(("attn_layer", "mlp_layer"), nn.Identity)
        super().__init__(**{**kwargs, **nothing})
        for name in shared:
            delattr(self, name)
        self._shared = dict(shared)

    def __getattr__(self, name: str) -> Any:
        shared = self.__dict__.get("_shared", {})
        return shared[name] if name in shared else super().__getattr__(name)


class SharedMoEBlock(SharedBlock, MoEBlock):
    """The same with experts."""


@dataclass(frozen=True)
class WideNetSettings(FFNSettings):
    """WideNet's arguments about experts and about what is shared.

    Attributes:
        moe_layers: ``()`` is the paper's "without MoE". A group with sparse and dense blocks has both kinds of FFN.
        share_every: blocks per set of shared weights; None is one set for all, 1 is no sharing.
        shared_norms: the blocks of a group share their two LayerNorms too.
        expert_hidden: hidden width of an expert; default 4·D.
        expert_final_act: GELU after an expert's second layer too.
        representation_size: width of the tanh layer before the classifier, part of the features; 0 for none, default D.
        learned_class_token: the class token is a parameter instead of zero.
    """

    moe_layers: str | Sequence[int] = "every-1"
    num_experts: int = 4
    routing_loss: str = "assignments"
    routing_options: Mapping[str, Any] = field(default_factory=lambda: {"noise": 1.0, "rounding": "floor"})
    share_every: int | None = None
    shared_norms: bool = False
    expert_hidden: int | None = None
    expert_final_act: bool = False
    representation_size: int | None = None
    learned_class_token: bool = False

    def __post_init__(self) -> None:
        if self.share_every is not None and (not isinstance(self.share_every, int) or self.share_every < 1):
            raise UserError(
                f"share_every is {self.share_every!r}; it must be a whole number of at least 1, or None for all blocks"
            )


class WideNetViT(SparseVisionTransformer):
    """A vision transformer whose blocks share their weights.

    ``state_dict`` holds every shared tensor once, under ``shared.<group>``. A shared layer that is called L times
    contributes its balance loss L times.

    Args:
        arguments: the fields of :class:`WideNetSettings`, and the keyword arguments of timm's ``VisionTransformer``.

    Raises:
        UserError: on a value that is not allowed.
    """

    defaults = WideNetSettings()
    settings: WideNetSettings

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**{"global_pool": "avg", "fc_norm": False, **arguments})
        self._fix_class_token()
        size = self.settings.representation_size
        self._add_representation(self.embed_dim if size is None else size)

    def _fix_class_token(self) -> None:
        if self.cls_token is not None and not self.settings.learned_class_token:
            zeros = torch.zeros(1, 1, self.embed_dim, **get_device_dtype(self))
            del self.cls_token
            self.register_buffer("cls_token", zeros, persistent=False)

    def _add_representation(self, size: int) -> None:
        """The tanh layer, if it has a size, and a classifier that fits it."""
        dd = get_device_dtype(self)
        self.representation: nn.Module = nn.Identity()
        if size:
            self.representation = nn.Sequential(nn.Linear(self.embed_dim, size, **dd), nn.Tanh())
            self.num_features = self.head_hidden_size = size
        self.reset_classifier(self.num_classes)
        for layer in (*self.representation.modules(), self.head):
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def make_block(self, is_sparse: bool, **kwargs: Any) -> nn.Module:
        """A block that uses the shared modules of its group. The first block of each kind in a group makes them."""
        if "shared" not in self._modules:
            self.shared = nn.ModuleList()
        every = self.settings.share_every
        group = 0 if every is None else kwargs["depth"] // every
        groups: Any = self.shared
        if group == len(groups):
            groups.append(nn.ModuleDict())
        shared, mlp_name = groups[group], "moe" if is_sparse else "mlp"
        if mlp_name not in shared:
            made: Any = super().make_block(is_sparse, **kwargs)
            shared[mlp_name] = made.mlp
            for name in ("attn", *(("norm1", "norm2") if self.settings.shared_norms else ())):
                if name not in shared:
                    shared[name] = getattr(made, name)
        parts = {name: shared[name] for name in ("attn", "norm1", "norm2") if name in shared}
        return (SharedMoEBlock if is_sparse else SharedBlock)({**parts, "mlp": shared[mlp_name]}, **kwargs)

    def mlp_layer(self) -> Callable[..., nn.Module]:
        """Experts of WideNet's width and activations."""
        make = super().mlp_layer()

        def experts(hidden_features: int, **kwargs: Any) -> nn.Module:
            moe: Any = make(hidden_features=self.settings.expert_hidden or hidden_features, **kwargs)
            if self.settings.expert_final_act:
                moe.experts.final_act = kwargs["act_layer"]()
            return moe

        return experts

    def init_weights(self, mode: str = "", needs_reset: bool = True) -> None:
        """timm's initial values; the constant class token is zero."""
        super().init_weights(mode, needs_reset)
        if self.cls_token is not None and not self.settings.learned_class_token:
            nn.init.zeros_(self.cls_token)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new classifier on the representation layer, which stays."""
        super().reset_classifier(num_classes, global_pool)
        if num_classes > 0:
            self.head = nn.Linear(self.head_hidden_size, num_classes, **get_device_dtype(self))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens ``[B, S, D]`` → logits ``[B, classes]``, or the representation ``[B, representation_size]``."""
        x = self.head_drop(self.representation(self.fc_norm(self.pool(x))))
        return x if pre_logits else self.head(x)


_SIZES: Mapping[str, Mapping[str, int]] = {
    "base": {"embed_dim": 768, "depth": 12, "num_heads": 12, "expert_hidden": 4096},
    "large": {"embed_dim": 1024, "depth": 24, "num_heads": 16, "expert_hidden": 4096},
    "huge": {"embed_dim": 1280, "depth": 32, "num_heads": 16, "expert_hidden": 5120},
}

default_cfgs = generate_default_cfgs(
    {
        **{f"wide_net_{size}_patch16_224.untrained": cfg(None, mean=HALF, std=HALF) for size in _SIZES},
        "wide_net_tiny_32.untrained": tiny_cfg(),
    }
)


def _create(size: str, pretrained: bool, kwargs: Mapping[str, Any]) -> WideNetViT:
    defaults = {"patch_size": 16, **_SIZES[size]}
    built: WideNetViT = create_sparse_vit(f"wide_net_{size}_patch16_224", pretrained, defaults, kwargs, WideNetViT)
    return built


@moe_model()
def wide_net_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> WideNetViT:
    """WideNet-B/16: twelve blocks that share attention and four experts, top 2"""
    return _create("base", pretrained, kwargs)


@moe_model()
def wide_net_large_patch16_224(pretrained: bool = False, **kwargs: Any) -> WideNetViT:
    """WideNet-L/16: 24 blocks that share attention and four experts, top 2"""
    return _create("large", pretrained, kwargs)


@moe_model()
def wide_net_huge_patch16_224(pretrained: bool = False, **kwargs: Any) -> WideNetViT:
    """WideNet-H/16 (the paper's H/14): 32 blocks that share attention and four experts, top 2"""
    return _create("huge", pretrained, kwargs)


@moe_model()
def wide_net_tiny_32(pretrained: bool = False, **kwargs: Any) -> WideNetViT:
    """WideNet for 28–32 px: 4 blocks that share attention and four experts, top 2, convolutional stem"""
    built: WideNetViT = create_sparse_vit("wide_net_tiny_32", pretrained, TINY, kwargs, WideNetViT)
    return built


WideNet = Preset(
    """Cross-entropy plus 0.01 times the balance loss of every block's routing.

    No weights are published, so it starts from scratch (``pretrained`` is False in its records). The paper's settings
    are for ImageNet (LAMB, batch 4096, 300 epochs); learning rate and weight decay are the suite's common ones.
    """,
    paper="Xue et al., Go Wider Instead of Deeper, 2022",
    backbones=("wide_net_base_patch16_224", "wide_net_tiny_32"),
    defaults={"pretrained": False},
)
