"""The layers of a conditional mixture of experts: Linear layers of experts that share routing decisions.

Where a route does not depend on content, ``Σ_e g_e (W_e x + b_e) = (Σ_e g_e W_e) x + Σ_e g_e b_e`` for all tokens that
share it. The experts are then merged first, so that they cost one dense layer (re-parameterisation, arXiv 2206.04674).

Legend: B images, S tokens of one image, T = B·S tokens, D and F widths, E experts, K choices, N conditions, R routes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from timm.layers import use_fused_attn
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.models.moe.choice import top_k_experts
from sfmoe_dg.models.moe.conditions import Conditions
from sfmoe_dg.models.moe.dispatch import Groups, grouped_linear
from sfmoe_dg.models.moe.layers import LinearExperts, MoE, compute_dtype
from sfmoe_dg.models.moe.routers import full_precision_region
from sfmoe_dg.models.moe.routing import Routing, RoutingOptions, route


class Decision(Protocol):
    """Routes of all tokens, ready to be applied to several layers."""

    routing: Routing

    def apply(self, experts: LinearExperts, x: Tensor) -> Tensor:
        """``[B, S, D]`` → ``[B, S, F]``."""


class PerToken:
    """Sends every token through its K experts."""

    def __init__(self, routing: Routing, num_experts: int) -> None:
        self.routing = routing
        self.groups = Groups(routing.experts_TK, routing.kept_TK, num_experts)

    def apply(self, experts: LinearExperts, x: Tensor) -> Tensor:
        """``[B, S, D]`` → ``[B, S, F]``."""
        x_TD = x.flatten(0, 1).to(compute_dtype(x))
        y_TF = self.groups.combine(experts(self.groups.gather(x_TD), self.groups), self.routing.gates_TK)
        return y_TF.unflatten(0, x.shape[:2])


class Merged:
    """Sends every token through the merged expert of its route."""

    def __init__(self, routing: Routing, gates_RE: Tensor, conditions: Conditions) -> None:
        self.routing, self.gates_RE, self.conditions = routing, gates_RE, conditions

    def apply(self, experts: LinearExperts, x: Tensor) -> Tensor:
        """``[B, S, D]`` → ``[B, S, F]``."""
        weight_RDF, bias_RF = merge(experts, self.gates_RE)
        if self.conditions.num_routes == 1:
            return F.linear(x, weight_RDF[0].T, None if bias_RF is None else bias_RF[0])
        groups, dtype = self.conditions.groups, compute_dtype(x)
        rows = groups.gather(x.flatten(0, 1).to(dtype))
        bias_RF = None if bias_RF is None else bias_RF.to(dtype)
        y = grouped_linear(rows, weight_RDF.to(dtype), bias_RF, groups)
        return groups.ungather(y).unflatten(0, x.shape[:2])


def merge(experts: LinearExperts, gates_RE: Tensor) -> tuple[Tensor, Tensor | None]:
    """One weight ``[R, D, F]`` and bias ``[R, F]`` per route: sums of the experts', weighted by the gates."""
    with full_precision_region(gates_RE):
        gates_RE = gates_RE.to(experts.weight.dtype)
        weight_RDF = (gates_RE @ experts.weight.flatten(1)).unflatten(1, experts.weight.shape[1:])
        return weight_RDF, None if experts.bias is None else gates_RE @ experts.bias


@dataclass(frozen=True)
class RouteBy:
    """How all decisions of a network are made.

    Attributes:
        make_router: a function ``(dim, num_experts, device=, dtype=)``, of
            :func:`sfmoe_dg.models.moe.conditions.router_maker`.
        options: how logits become a route.
        by_content: routers look at the tokens, so each token has a route of its own.
    """

    make_router: Callable[..., nn.Module]
    options: RoutingOptions
    by_content: bool

    def linear(self, in_features: int, out_features: int, bias: bool, **dd: Any) -> LinearExperts:
        """The experts of one Linear layer."""
        return LinearExperts(self.options.num_experts, in_features, out_features, bias, **dd)


class ConditionalMoE(MoE):
    """One routing decision and the Linear layers that share it.

    Args:
        layers: name → experts.
        dim: width of the tokens.
        by: how the decision is made.
        dd: device and dtype of the router.

    Attributes:
        merge: merge experts where content does not matter; False sends every token through its K experts instead,
            which gives the same numbers (a check).
    """

    def __init__(self, layers: Mapping[str, LinearExperts], dim: int, by: RouteBy, **dd: Any) -> None:
        super().__init__(nn.ModuleDict(layers), by.make_router(dim, by.options.num_experts, **dd), by.options)
        self.by_content = by.by_content
        self.merge = True

    def why_not_shared(self, mode: str) -> str:
        if self.by_content and mode in ("ddp", "fsdp"):
            return ""
        return "a conditional mixture of experts works with ddp and fsdp, if it routes by token"

    def layer(self, name: str) -> LinearExperts:
        """The experts of one layer."""
        experts: Any = self.experts
        return experts[name]

    def decide(self, x: Tensor, conditions: Conditions | None) -> Decision:
        """The routes of the tokens of ``x [B, S, D]``.

        Raises:
            UserError: if a capacity limit is set although all tokens of a condition share their route.
        """
        if self.by_content:
            return PerToken(self.decide_routes(self.router(x), x.shape[1]), self.options.num_experts)
        assert conditions is not None
        routing, gates_RE = self._decide_once(conditions)
        if self.merge:
            return Merged(routing, gates_RE, conditions)
        return PerToken(routing, self.options.num_experts)

    def merged_gates(self, conditions: Conditions) -> Tensor:
        """The gate of every expert in every route, ``[R, E]``."""
        return self._decide_once(conditions)[1]

    def _decide_once(self, conditions: Conditions) -> tuple[Routing, Tensor]:
        """The routing of all tokens, and the gates ``[R, E]`` of all routes.

        Every condition is routed once, so that all its tokens share one route and one draw of the noise.
        """
        options, index_T = self.options, conditions.index_T
        if options.ratio(self.training) is not None:
            raise UserError("a capacity limit needs routes per token; leave it out, or route by token or context")
        logits_NE = self.router(conditions.inputs_N)
        routed = route(logits_NE, replace(options, losses=()), self.training, 1)
        gates_RE = torch.zeros_like(routed.probs_TE).scatter(-1, routed.experts_TK, routed.gates_TK)
        experts_RK, gates_RK, probs_RE = routed.experts_TK, routed.gates_TK, routed.probs_TE
        if conditions.mixture_RN is not None:
            mixture_RN = conditions.mixture_RN.to(gates_RE.dtype)
            gates_RE, probs_RE = mixture_RN @ gates_RE, mixture_RN @ probs_RE
            experts_RK = top_k_experts(gates_RE, min(options.num_experts, options.top_k * len(logits_NE)))
            gates_RK = gates_RE.gather(-1, experts_RK)
        losses: dict[str, Tensor] = {}
        if options.losses and conditions.mixture_RN is None:
            # Every condition counts once per token. The losses look at logits without noise.
            losses = route(logits_NE[index_T], replace(options, noise=0.0), False, len(index_T)).losses
        return Routing(experts_RK[index_T], gates_RK[index_T], None, probs_RE[index_T], losses), gates_RE


class ConditionalAttention(ConditionalMoE):
    """Multi-head self-attention whose qkv and output projection are experts under one decision.

    ``by`` is that of :class:`ConditionalMoE`; the other arguments are those of timm's ``Attention``.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        by: RouteBy,
        *,
        qkv_bias: bool = True,
        proj_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        **dd: Any,
    ) -> None:
        layers = {"qkv": by.linear(dim, 3 * dim, qkv_bias, **dd), "proj": by.linear(dim, dim, proj_bias, **dd)}
        super().__init__(layers, dim, by, **dd)
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.fused_attn = use_fused_attn()
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, conditions: Conditions | None = None, **attention: Any) -> tuple[Tensor, Routing]:
        """``[B, S, D]`` → the same, and the :class:`Routing` of its B·S tokens."""
        decision = self.decide(x, conditions)
        qkv = decision.apply(self.layer("qkv"), x).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        plain = attention.get("attn_mask") is None and not attention.get("is_causal")
        if self.fused_attn or not plain:
            drop = self.attn_drop.p if self.training else 0.0
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=drop, **attention)
        else:
            y = self.attn_drop((q * self.scale @ k.transpose(-2, -1)).softmax(-1)) @ v
        y = decision.apply(self.layer("proj"), y.transpose(1, 2).flatten(2))
        return self.proj_drop(y), decision.routing


class ConditionalFFN(ConditionalMoE):
    """Two Linear layers of experts with an activation between them, under one decision; arguments as above."""

    def __init__(
        self,
        dim: int,
        hidden: int,
        by: RouteBy,
        *,
        act_layer: Callable[[], nn.Module] = nn.GELU,
        bias: bool = True,
        drop: float = 0.0,
        **dd: Any,
    ) -> None:
        layers = {"fc1": by.linear(dim, hidden, bias, **dd), "fc2": by.linear(hidden, dim, bias, **dd)}
        super().__init__(layers, dim, by, **dd)
        self.act = act_layer()
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor, conditions: Conditions | None = None) -> tuple[Tensor, Routing]:
        """``[B, S, D]`` → the same, and the :class:`Routing` of its B·S tokens."""
        decision = self.decide(x, conditions)
        hidden = self.drop(self.act(decision.apply(self.layer("fc1"), x)))
        return self.drop(decision.apply(self.layer("fc2"), hidden)), decision.routing


class ConditionalBlock(Block):
    """timm's pre-norm block with a :class:`ConditionalAttention` and a :class:`ConditionalFFN`.

    Raises:
        UserError: on norms inside the attention or the FFN, which experts do not have.
    """

    def __init__(self, by: RouteBy, **kwargs: Any) -> None:
        for name in ("qk_norm", "scale_attn_norm", "scale_mlp_norm"):
            if kwargs.get(name):
                raise UserError(f"{name} is not supported in conditional mixture-of-experts blocks; leave it out")
        super().__init__(**{**kwargs, "attn_layer": nn.Identity, "mlp_layer": nn.Identity})
        dim, drop, bias = kwargs["dim"], kwargs["proj_drop"], kwargs["proj_bias"]
        dd: dict[str, Any] = {"device": kwargs.get("device"), "dtype": kwargs.get("dtype")}
        biases = {"qkv_bias": kwargs["qkv_bias"], "proj_bias": bias}
        drops = {"attn_drop": kwargs["attn_drop"], "proj_drop": drop}
        self.attn: nn.Module = ConditionalAttention(dim, kwargs["num_heads"], by, **biases, **drops, **dd)
        hidden, act = int(dim * kwargs["mlp_ratio"]), kwargs["act_layer"]
        self.mlp: nn.Module = ConditionalFFN(dim, hidden, by, act_layer=act, bias=bias, drop=drop, **dd)

    def forward_routed(
        self, x: Tensor, conditions: Conditions | None = None, **attention: Any
    ) -> tuple[Tensor, Routing, Routing]:
        """``[B, S, D]`` → the same, and the routings of attention and FFN."""
        y, attn_routing = self.attn(self.norm1(x), conditions, **attention)
        x = x + self.drop_path1(self.ls1(y))
        y, mlp_routing = self.mlp(self.norm2(x), conditions)
        return x + self.drop_path2(self.ls2(y)), attn_routing, mlp_routing

    def forward(
        self,
        x: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        conditions: Conditions | None = None,
    ) -> Tensor:
        """``[B, S, D]`` → the same, like timm's block."""
        return self.forward_routed(x, conditions, attn_mask=attn_mask, is_causal=is_causal)[0]
