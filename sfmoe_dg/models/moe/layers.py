"""Mixture-of-experts layers: stacked experts under a router.

Legend: B images, S tokens of one image, T = B·S tokens, D width, F hidden width, E experts, K choices, R = T·K rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.processes import GlobalBatch
from sfmoe_dg.models.moe.dispatch import Groups, grouped_linear
from sfmoe_dg.models.moe.expert_parallel import ExpertExchange
from sfmoe_dg.models.moe.routers import build_router
from sfmoe_dg.models.moe.routing import Routing, RoutingOptions, route


class LinearExperts(nn.Module):
    """E linear maps D → F in one stack ``weight [E, D, F]``, ``bias [E, F]``; all start identical."""

    def __init__(
        self,
        num_experts: int,
        in_features: int,
        out_features: int,
        bias: bool = True,
        init: Callable[[Tensor], Any] | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.init = init or _truncated_normal
        dd = {"device": device, "dtype": dtype}
        self.weight = nn.Parameter(torch.empty(num_experts, in_features, out_features, **dd))
        self.bias = nn.Parameter(torch.empty(num_experts, out_features, **dd)) if bias else None
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """One draw for all experts (V-MoE, appendix A); ``init`` gets a weight of ``nn.Linear``'s shape."""
        weight_FD = torch.empty_like(self.weight[0].T)
        self.init(weight_FD)
        self.weight.copy_(weight_FD.T)
        if self.bias is not None:
            self.bias.zero_()

    def forward(self, x_RD: Tensor, groups: Groups) -> Tensor:
        """``[R, D]`` → ``[R, F]``, rows sorted by expert as ``groups`` says."""
        dtype = compute_dtype(x_RD)
        bias = None if self.bias is None else self.bias.to(dtype)
        return grouped_linear(x_RD.to(dtype), self.weight.to(dtype), bias, groups)

    def extra_repr(self) -> str:
        return "experts={}, in_features={}, out_features={}".format(*self.weight.shape)


class FFNExperts(nn.Module):
    """E feed-forward networks D → F → D with biases, in stacked weights ``fc1``, ``fc2``; all start identical.

    Args:
        drop: dropout on the hidden units (GMoE's experts: 0.1).
        final_act: the activation once more after the second layer (WideNet's code).
    """

    def __init__(
        self,
        num_experts: int,
        in_features: int,
        hidden_features: int,
        act_layer: Callable[[], nn.Module] = nn.GELU,
        bias: bool = True,
        drop: float = 0.0,
        final_act: bool = False,
        init: Callable[[Tensor], Any] | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.fc1 = LinearExperts(num_experts, in_features, hidden_features, bias, init, **dd)
        self.act = act_layer()
        self.drop = nn.Dropout(drop)
        self.fc2 = LinearExperts(num_experts, hidden_features, in_features, bias, init, **dd)
        self.final_act = act_layer() if final_act else nn.Identity()

    def forward(self, x_RD: Tensor, groups: Groups) -> Tensor:
        """``[R, D]`` → ``[R, D]``, rows sorted by expert as ``groups`` says."""
        return self.final_act(self.fc2(self.drop(self.act(self.fc1(x_RD, groups))), groups))


class MoE(nn.Module):
    """Experts under a router: ``y = Σ_k gate_k · expert_k(x)``.

    Args:
        experts: a module called as ``experts(rows, groups)``: :class:`FFNExperts`, :class:`LinearExperts`.
        router: a module from features ``[T, D]`` to logits ``[T, E]``.
        options: how logits become a route.

    Attributes:
        batch: where this process's rows belong in the training batch of several processes; None for a single process.
        exchange: sends rows to experts that other processes hold; None where this process holds all.
    """

    # On the class: a layer of a single process has neither.
    batch: GlobalBatch | None = None
    exchange: ExpertExchange | None = None

    def __init__(self, experts: nn.Module, router: nn.Module, options: RoutingOptions) -> None:
        super().__init__()
        self.router = router
        self.experts = experts
        self.options = options

    def forward(self, x: Tensor) -> tuple[Tensor, Routing]:
        """``[B, S, D]`` (or ``[T, D]``, one image) → the same shape, and the :class:`Routing` of its T tokens."""
        x_TD = x.reshape(-1, x.shape[-1])
        routing = self.decide_routes(self.router(x_TD), x.shape[-2])
        y_TD = self.apply_experts(x_TD, routing)
        return y_TD.reshape(*x.shape[:-1], y_TD.shape[-1]), routing

    def decide_routes(self, logits_TE: Tensor, tokens_per_image: int) -> Routing:
        """The route of every token. In training, losses and capacities are those of all processes' tokens."""
        batch = self.batch if self.training else None
        return route(logits_TE, self.options, self.training, tokens_per_image, batch)

    def apply_experts(self, x_TD: Tensor, routing: Routing) -> Tensor:
        """The weighted sum of the chosen experts' outputs for a route that is already decided, ``[T, D']``."""
        groups = Groups(routing.experts_TK, routing.kept_TK, self.options.num_experts)
        x_RD = groups.gather(x_TD.to(compute_dtype(x_TD)))
        y_RD = self.experts(x_RD, groups) if self.exchange is None else self.exchange.run(self.experts, x_RD, groups)
        return groups.combine(y_RD, routing.gates_TK)

    def why_not_shared(self, mode: str) -> str:
        """Why several processes cannot share an update of this layer in a mode, such as "ddp"; '' if they can."""
        return ""

    def extra_repr(self) -> str:
        return str(self.options)


def ffn_moe(
    in_features: int,
    hidden_features: int,
    *,
    options: RoutingOptions,
    router: str = "linear",
    norm_layer: object = None,
    drop: float = 0.0,
    expert_drop: float = 0.0,
    **others: Any,
) -> MoE:
    """A mixture of FFNs with the call signature of timm's ``mlp_layer``.

    Args:
        drop, expert_drop: the larger one is the dropout on the hidden units.
        others: further arguments of :class:`FFNExperts` by name.

    Raises:
        UserError: on an unknown router, or a norm between the layers of an expert, which experts do not have.
    """
    if norm_layer is not None:
        raise UserError("scale_mlp_norm is not supported in mixture-of-experts blocks; leave it out")
    experts = FFNExperts(options.num_experts, in_features, hidden_features, drop=max(drop, expert_drop), **others)
    dd = {name: others.get(name) for name in ("device", "dtype")}
    return MoE(experts, build_router(router, in_features, options.num_experts, **dd), options)


def moe_layers(module: nn.Module) -> list[tuple[str, MoE]]:
    """Every distinct MoE layer with its name, in the order of the model."""
    return [(name, m) for name, m in module.named_modules() if isinstance(m, MoE)]


def set_routing(
    module: nn.Module,
    *,
    k: int | None = None,
    capacity_ratio: float | str | None = "keep",
    allocation: str | None = None,
    **others: Any,
) -> None:
    """Change how every MoE layer of a (trained) model routes; no parameter is touched.

    Args:
        k: choices per token.
        capacity_ratio: for training and evaluation alike; None is dropless, "keep" leaves it.
        allocation: 'vanilla', 'batch_priority' or 'token_order'.
        others: further :class:`RoutingOptions` by name.

    Raises:
        UserError: if the model has no MoE layer, or a value is not allowed (then nothing is changed).
    """
    changes = dict(others)
    if k is not None:
        changes["top_k"] = k
    if allocation is not None:
        changes["allocation"] = allocation
    if capacity_ratio != "keep":
        changes |= {"capacity_ratio": capacity_ratio, "eval_capacity_ratio": capacity_ratio}
    layers = _some_layers(module)
    changed = [layer.options.changed(changes) for layer in layers]
    for layer, options in zip(layers, changed, strict=True):
        layer.options = options


@contextmanager
def routing_set(module: nn.Module, **changes: Any) -> Iterator[None]:
    """:func:`set_routing` for the length of a ``with`` block; afterwards every layer routes as before."""
    before = [(layer, layer.options) for layer in _some_layers(module)]
    set_routing(module, **changes)
    try:
        yield
    finally:
        for layer, options in before:
            layer.options = options


def total_losses(routings: list[Routing]) -> dict[str, Tensor]:
    """Weighted losses summed over layers (a layer that is called twice counts twice), by name."""
    totals: dict[str, Tensor] = {}
    for routing in routings:
        for name, value in routing.losses.items():
            totals[name] = totals[name] + value if name in totals else value
    return totals


def _some_layers(module: nn.Module) -> list[MoE]:
    layers = [layer for _, layer in moe_layers(module)]
    if not layers:
        raise UserError("this model has no mixture-of-experts layer, so there is no routing to change")
    return layers


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which autocast computes a linear layer; autocast does not reach GEMMs that write into an output."""
    kind = x.device.type
    if kind != "meta" and torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(kind)
    return x.dtype


def _truncated_normal(weight: Tensor) -> None:
    nn.init.trunc_normal_(weight, std=0.02)
