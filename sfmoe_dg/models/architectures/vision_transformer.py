"""timm's vision transformer with mixture-of-experts blocks at chosen depths; the dense one is the case without any.

Legend: B images, S tokens of one image, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from timm.models import build_model_with_cfg
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sfmoe_dg.models.architectures.settings import FFNSettings, MoESettings
from sfmoe_dg.models.moe.layers import set_routing, total_losses
from sfmoe_dg.models.moe.routing import Routing
from sfmoe_dg.models.weights.pretrained import load_pretrained


class MoEBlock(Block):
    """timm's pre-norm block whose ``mlp`` is a :class:`sfmoe_dg.models.moe.layers.MoE`."""

    def forward_routed(self, x: Tensor, **attention: Any) -> tuple[Tensor, Routing]:
        """``[B, S, D]`` → the same, and the :class:`Routing` of its B·S tokens."""
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x), **attention)))
        y, routing = self.mlp(self.norm2(x))
        return x + self.drop_path2(self.ls2(y)), routing

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """``[B, S, D]`` → the same, like timm's block."""
        given = {"attn_mask": attn_mask, "is_causal": is_causal or None}
        # Passed on only where set: the attention of older timm does not take is_causal.
        return self.forward_routed(x, **{k: v for k, v in given.items() if v is not None})[0]


class SparseVisionTransformer(VisionTransformer):
    """A vision transformer with sparse blocks where ``moe_layers`` says.

    ``forward``, ``forward_features``, ``forward_head`` and ``forward_intermediates`` are timm's;
    :meth:`forward_with_losses` also returns the routing losses. Nothing is stored between calls.

    A subclass changes :attr:`defaults`, and perhaps what its sparse blocks are (:meth:`mlp_layer`, :meth:`make_block`)
    and what they are told (:meth:`routing_inputs`).

    Args:
        depth: number of blocks.
        arguments: the fields of :attr:`defaults`, and the keyword arguments of timm's ``VisionTransformer``.

    Raises:
        UserError: on a value that is not allowed.
    """

    defaults: ClassVar[MoESettings] = FFNSettings()
    """The arguments about experts and their default values."""

    def __init__(self, *, depth: int = 12, **arguments: Any) -> None:
        # Plain values, set before timm's constructor, which calls make_block.
        self.settings, vit = self.defaults.split(arguments)
        self.moe_layers = self.settings.sparse_blocks(depth)
        self.routing_options = self.settings.routing()

        def block(depth: int, **kwargs: Any) -> nn.Module:
            return self.make_block(depth in self.moe_layers, depth=depth, **kwargs)

        block_fn: Any = block  # timm says type[Module]; it only calls it
        super().__init__(depth=depth, block_fn=block_fn, **vit)

    def make_block(self, is_sparse: bool, **kwargs: Any) -> nn.Module:
        """One block from the arguments of timm's ``Block``; called while the model is being built."""
        return MoEBlock(**{**kwargs, "mlp_layer": self.mlp_layer()}) if is_sparse else Block(**kwargs)

    def mlp_layer(self) -> Callable[..., nn.Module]:
        """What makes the feed-forward part of a sparse block, called as timm's blocks call their ``mlp_layer``."""
        assert isinstance(self.settings, FFNSettings)
        return self.settings.mlp_layer(self.routing_options)

    def routing_inputs(self, x: Tensor) -> tuple[tuple[Any, ...], dict[str, Tensor]]:
        """What every sparse block gets besides its tokens, and losses of finding that out; none here.

        ``x [B, S, D]`` are the tokens before the first block. A subclass may take further arguments: the keyword
        arguments of :meth:`forward_features_with_losses` that are left.
        """
        return (), {}

    def forward_features_with_losses(
        self, x: Tensor, attention: Mapping[str, Any] | None = None, **known: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Images ``[B, C, H, W]`` → tokens ``[B, S, D]`` after the last norm, and the weighted losses by name.

        Args:
            attention: keyword arguments of every block's attention.
            known: see :meth:`routing_inputs`.
        """
        x = self.norm_pre(self.patch_drop(self._pos_embed(self.patch_embed(x))))
        inputs, losses = self.routing_inputs(x, **known)
        recompute = self.grad_checkpointing and torch.is_grad_enabled()
        routings: list[Routing] = []
        for block in self.blocks:
            routed = hasattr(block, "forward_routed")
            call: Any = block.forward_routed if routed else block
            arguments = (x, *inputs) if routed else (x,)
            if recompute:
                out: Any = checkpoint(call, *arguments, use_reentrant=False, **(attention or {}))
            else:
                out = call(*arguments, **(attention or {}))
            x, *of_block = out if routed else (out,)
            routings += of_block
        return self.norm(x), {**total_losses(routings), **losses}

    def forward_with_losses(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Images ``[B, C, H, W]`` → what ``forward`` returns, and the weighted routing losses summed over layers."""
        x, losses = self.forward_features_with_losses(x)
        return self.forward_head(x), losses

    def set_routing(self, **changes: Any) -> None:
        """See :func:`sfmoe_dg.models.moe.layers.set_routing`."""
        set_routing(self, **changes)


def create_sparse_vit(
    name: str, pretrained: bool, defaults: Mapping[str, Any], kwargs: Mapping[str, Any], model: Any = None
) -> Any:
    """Build a network for a function that timm has registered.

    Weights are loaded by :func:`load_pretrained`, which accounts for every key; timm's own loader would drop leftovers
    silently when the head differs.

    Args:
        name: the registered name.
        defaults: the arguments that make this network what it is.
        kwargs: the caller's arguments, which win; ``routing_options`` of both are merged by name.
        model: the class, :class:`SparseVisionTransformer` by default.
    """
    merged = {**defaults, **kwargs}
    options = {**(defaults.get("routing_options") or {}), **(kwargs.get("routing_options") or {})}
    if options:
        merged["routing_options"] = options
    built = build_model_with_cfg(
        model or SparseVisionTransformer,
        name,
        False,
        feature_cfg={"out_indices": 3, "feature_cls": "getter"},
        **merged,
    )
    if pretrained:
        load_pretrained(built, True, name)
    return built
