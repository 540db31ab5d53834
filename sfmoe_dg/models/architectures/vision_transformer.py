"""timm's vision transformer with mixture-of-experts blocks at chosen depths; the dense one is the case without any.

Legend: B images, S tokens of one image, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from timm.models import build_model_with_cfg
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sfmoe_dg.models.architectures.patterns import sparse_blocks
from sfmoe_dg.models.moe.balance import weighted
from sfmoe_dg.models.moe.layers import ffn_moe, set_routing, total_losses
from sfmoe_dg.models.moe.routing import Routing, RoutingOptions
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
        # Passed on only where set: older timm's attention does not know is_causal.
        return self.forward_routed(x, **{k: v for k, v in given.items() if v is not None})[0]


class SparseVisionTransformer(VisionTransformer):
    """A vision transformer with sparse blocks where ``moe_layers`` says.

    ``forward``, ``forward_features``, ``forward_head`` and ``forward_intermediates`` are timm's;
    :meth:`forward_with_losses` also returns the routing losses. Nothing is stored between calls.

    Args:
        moe_layers: see :func:`sfmoe_dg.models.architectures.patterns.sparse_blocks`.
        num_experts, top_k, allocation: see :class:`sfmoe_dg.models.moe.routing.RoutingOptions`.
        capacity_ratio: of training; None or 'dropless' drops nothing.
        eval_capacity_ratio: of evaluation, dropless by default.
        router: 'linear' or 'cosine'.
        routing_loss: a mixture of :data:`sfmoe_dg.models.moe.balance.MIXES`, times ``routing_loss_weight``.
        routing_options: further fields of ``RoutingOptions`` (noise, renormalize, group, rounding, …).
        expert_drop: dropout on the experts' hidden units.
        expert_init: initial values of a weight of one expert, [out, in]; default timm's truncated normal.
        vit: keyword arguments of timm's ``VisionTransformer``.

    Raises:
        UserError: on any of these that is not allowed.
    """

    def __init__(
        self,
        *,
        moe_layers: str | Sequence[int] = (),
        num_experts: int = 6,
        top_k: int = 2,
        capacity_ratio: float | str | None = None,
        eval_capacity_ratio: float | str | None = None,
        allocation: str = "vanilla",
        router: str = "linear",
        routing_loss: str = "balance",
        routing_loss_weight: float = 0.01,
        routing_options: Mapping[str, Any] | None = None,
        expert_drop: float = 0.0,
        expert_init: Callable[[Tensor], Any] | None = None,
        depth: int = 12,
        **vit: Any,
    ) -> None:
        sparse = sparse_blocks(moe_layers, depth)
        losses = weighted(routing_loss, routing_loss_weight)
        options = make_options(
            num_experts, top_k, capacity_ratio, eval_capacity_ratio, allocation, losses, routing_options or {}
        )
        mlp = partial(ffn_moe, options=options, router=router, expert_drop=expert_drop, init=expert_init)

        def block(depth: int, mlp_layer: Any, **kwargs: Any) -> nn.Module:
            is_sparse = depth in sparse
            return self.make_block(is_sparse, depth=depth, mlp_layer=mlp if is_sparse else mlp_layer, **kwargs)

        block_fn: Any = block  # timm says type[Module]; it only calls it
        super().__init__(depth=depth, block_fn=block_fn, **vit)
        self.moe_layers = sparse

    def make_block(self, is_sparse: bool, **kwargs: Any) -> nn.Module:
        """One block from the arguments of timm's ``Block``; called while the model is being built."""
        return (MoEBlock if is_sparse else Block)(**kwargs)

    def forward_features_with_losses(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Images ``[B, C, H, W]`` → tokens ``[B, S, D]`` after the last norm, and the weighted losses by name."""
        x = self.norm_pre(self.patch_drop(self._pos_embed(self.patch_embed(x))))
        routings = []
        for block in self.blocks:
            call = block.forward_routed if isinstance(block, MoEBlock) else block
            recompute = self.grad_checkpointing and torch.is_grad_enabled()
            out: Any = checkpoint(call, x, use_reentrant=False) if recompute else call(x)
            if isinstance(block, MoEBlock):
                x, routing = out
                routings.append(routing)
            else:
                x = out
        return self.norm(x), total_losses(routings)

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
    """Build a timm-registered model: ``defaults`` of the architecture under the caller's ``kwargs``.

    ``routing_options`` of both are merged by name. Weights are loaded by :func:`load_pretrained`, which accounts for
    every key; timm's own loader would drop leftovers silently when the head differs.
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


def make_options(
    num_experts: int,
    top_k: int,
    capacity_ratio: float | str | None,
    eval_capacity_ratio: float | str | None,
    allocation: str,
    losses: tuple[tuple[str, float], ...],
    changes: Mapping[str, Any],
) -> RoutingOptions:
    """A model's arguments as :class:`sfmoe_dg.models.moe.routing.RoutingOptions`, which checks them.

    timm drops arguments that are None, so 'dropless' says it where a model's default is a number.
    """
    ratios: list[Any] = [None if ratio == "dropless" else ratio for ratio in (capacity_ratio, eval_capacity_ratio)]
    options = RoutingOptions(
        num_experts,
        top_k,
        capacity_ratio=ratios[0],
        eval_capacity_ratio=ratios[1],
        allocation=allocation,
        losses=losses,
    )
    return options.changed(changes)
