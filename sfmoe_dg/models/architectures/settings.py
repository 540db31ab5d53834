"""The arguments of a network that are about its experts: one frozen value per network, with the paper's defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, TypeVar

from torch import Tensor, nn

from sfmoe_dg.models.architectures.patterns import sparse_blocks
from sfmoe_dg.models.moe.balance import weighted
from sfmoe_dg.models.moe.layers import ffn_moe
from sfmoe_dg.models.moe.routing import RoutingOptions

Settings = TypeVar("Settings", bound="MoESettings")


@dataclass(frozen=True)
class MoESettings:
    """What every network with experts takes as keyword arguments.

    Attributes:
        moe_layers: which blocks are sparse, see :func:`sfmoe_dg.models.architectures.patterns.sparse_blocks`.
        num_experts, top_k, allocation: see :class:`sfmoe_dg.models.moe.routing.RoutingOptions`.
        capacity_ratio: of training; None or 'dropless' drops nothing.
        eval_capacity_ratio: of evaluation, dropless by default.
        routing_loss: a mixture of :data:`sfmoe_dg.models.moe.balance.MIXES`, times ``routing_loss_weight``.
        routing_options: further fields of ``RoutingOptions`` (noise, renormalize, group, rounding, …).
        num_domains: number of training domains, for routers that know them.
    """

    moe_layers: str | Sequence[int] = ()
    num_experts: int = 6
    top_k: int = 2
    capacity_ratio: float | str | None = None
    eval_capacity_ratio: float | str | None = None
    allocation: str = "vanilla"
    routing_loss: str = "balance"
    routing_loss_weight: float = 0.01
    routing_options: Mapping[str, Any] = field(default_factory=dict)
    num_domains: int = 3

    def split(self: Settings, arguments: Mapping[str, Any]) -> tuple[Settings, dict[str, Any]]:
        """These settings with the changes that ``arguments`` make to them, and the arguments that remain.

        ``routing_options`` are merged by name.
        """
        names = {f.name for f in fields(self)}
        own = {name: value for name, value in arguments.items() if name in names}
        own["routing_options"] = {**self.routing_options, **(own.get("routing_options") or {})}
        return replace(self, **own), {name: value for name, value in arguments.items() if name not in names}

    def sparse_blocks(self, depth: int) -> tuple[int, ...]:
        """The indices of the sparse blocks among ``depth``.

        Raises:
            UserError: if ``moe_layers`` does not fit.
        """
        return sparse_blocks(self.moe_layers, depth)

    def routing(self) -> RoutingOptions:
        """How the layers route.

        Raises:
            UserError: on a value that is not allowed.
        """
        losses = weighted(self.routing_loss, self.routing_loss_weight)
        # timm drops arguments that are None, so 'dropless' says it where a network's default is a number.
        ratios: list[Any] = [None if r == "dropless" else r for r in (self.capacity_ratio, self.eval_capacity_ratio)]
        options = RoutingOptions(
            self.num_experts,
            self.top_k,
            capacity_ratio=ratios[0],
            eval_capacity_ratio=ratios[1],
            allocation=self.allocation,
            losses=losses,
        )
        return options.changed(self.routing_options)


@dataclass(frozen=True)
class FFNSettings(MoESettings):
    """The same for networks whose experts are feed-forward networks.

    Attributes:
        router: 'linear' or 'cosine'.
        expert_drop: dropout on the experts' hidden units.
        expert_init: initial values of a weight of one expert, [out, in]; default timm's truncated normal.
    """

    router: str = "linear"
    expert_drop: float = 0.0
    expert_init: Callable[[Tensor], Any] | None = None

    def mlp_layer(self, options: RoutingOptions) -> Callable[..., nn.Module]:
        """What makes the feed-forward part of a sparse block, called as timm's blocks call their ``mlp_layer``."""
        return partial(
            ffn_moe, options=options, router=self.router, expert_drop=self.expert_drop, init=self.expert_init
        )
