"""Routing: from expert logits to chosen experts, combine weights and auxiliary losses.

Legend: B images, G groups, T tokens (all tokens of a batch), S tokens of one image, E experts, K choices.
A name ends in the axes of its tensor: ``logits_TE``, ``gates_TK``.

Everything in this file is computed in float32 (float64 for float64 inputs), also under autocast.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.processes import GlobalBatch
from sfmoe_dg.foundation.registry import unknown
from sfmoe_dg.models.moe.balance import LOSSES, routing_losses
from sfmoe_dg.models.moe.capacity import ALLOCATIONS, PRIORITIES, ROUNDINGS, allocate, group_capacities, kept
from sfmoe_dg.models.moe.choice import Choice, choose
from sfmoe_dg.models.moe.routers import full_precision, full_precision_region


class Routing(NamedTuple):
    """What a router decided for every token.

    Attributes:
        experts_TK: chosen experts, best first, int64.
        gates_TK: combine weights, float32; 0 where an assignment was dropped.
        kept_TK: which assignments found a slot; None when nothing can be dropped (dropless).
        probs_TE: noise-free softmax over all experts.
        losses: weighted auxiliary losses of this layer by name, scalars.
    """

    experts_TK: Tensor
    gates_TK: Tensor
    kept_TK: Tensor | None
    probs_TE: Tensor
    losses: dict[str, Tensor]


@dataclass(frozen=True)
class RoutingOptions:
    """How logits become routes. None of this is a parameter, so it may change on a trained model.

    Attributes:
        num_experts: E.
        top_k: K, choices per token.
        noise: standard deviation of the Gaussian noise on the logits, in units of 1/E; in training only. The noisy
            softmax chooses and weighs the experts; importance looks at the noise-free one (V-MoE, appendix A).
        renormalize: divide the K combine weights by their sum, before any drop.
        capacity_ratio: slots per expert as a multiple of K·tokens/E in training; None is dropless.
        eval_capacity_ratio: the same in evaluation; None (default) makes evaluation independent of the batch.
        group: 'batch', 'image', or a number of images that are allocated, and whose losses are computed, together.
        allocation: 'vanilla', 'batch_priority' or 'token_order'; see :func:`sfmoe_dg.models.moe.capacity.allocate`.
        priority: batch priority by the largest chosen probability ('max') or by their sum ('sum').
        rounding: 'round', 'ceil', 'ceil4' or 'floor'; see :data:`sfmoe_dg.models.moe.capacity.ROUNDINGS`.
        min_capacity: the least number of slots per expert and group.
        losses: (name, weight) pairs; names in :data:`sfmoe_dg.models.moe.balance.LOSSES`.

    Raises:
        UserError: if a value is not one of those.
    """

    num_experts: int
    top_k: int = 1
    noise: float = 0.0
    renormalize: bool = False
    capacity_ratio: float | None = None
    eval_capacity_ratio: float | None = None
    group: str | int = "batch"
    allocation: str = "vanilla"
    priority: str = "max"
    rounding: str = "round"
    min_capacity: int = 1
    losses: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if not _is_count(self.num_experts):
            raise UserError(f"num_experts is {self.num_experts!r}; it must be a whole number of at least 1")
        if not (_is_count(self.top_k) and self.top_k <= self.num_experts):
            raise UserError(
                f"top_k is {self.top_k!r}; it must lie between 1 and the number of experts, {self.num_experts}"
            )
        for name in ("capacity_ratio", "eval_capacity_ratio"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and 0 < value < math.inf):
                raise UserError(f"{name} is {value!r}; it must be a number above 0, or None (dropless)")
        if not (_is_number(self.noise) and 0 <= self.noise < math.inf):
            raise UserError(f"router noise is {self.noise!r}; it must be a finite number of at least 0")
        if not (self.group in ("batch", "image") or _is_count(self.group)):
            raise UserError(f"routing group is {self.group!r}; it must be 'batch', 'image' or a number of images")
        if not _is_count(self.min_capacity, least=0):
            raise UserError(f"min_capacity is {self.min_capacity!r}; it must be a whole number of at least 0")
        for name, weight in self.losses:
            if not (_is_number(weight) and 0 <= weight < math.inf):
                raise UserError(
                    f"the weight of routing loss {name!r} is {weight!r}; it must be a finite number of at least 0"
                )
        for kind, value, known in (
            ("allocation", self.allocation, ALLOCATIONS),
            ("priority", self.priority, PRIORITIES),
            ("capacity rounding", self.rounding, ROUNDINGS),
            *(("routing loss", name, LOSSES) for name, _ in self.losses),
        ):
            if value not in known:
                raise unknown(kind, str(value), known)

    def changed(self, changes: Mapping[str, Any]) -> RoutingOptions:
        """A copy with some values changed; unknown names are refused."""
        known = [f.name for f in fields(self)]
        for name in changes:
            if name not in known:
                raise unknown("routing option", name, known)
        return replace(self, **changes)

    def ratio(self, training: bool) -> float | None:
        """The capacity ratio in force, None for dropless."""
        return self.capacity_ratio if training else self.eval_capacity_ratio

    def group_size(self, num_tokens: int, tokens_per_image: int) -> int:
        """Tokens of a group; at least 1."""
        if self.group == "batch":
            return max(num_tokens, 1)
        images = 1 if self.group == "image" else int(self.group)
        return max(images * tokens_per_image, 1)


def route(
    logits_TE: Tensor,
    options: RoutingOptions,
    training: bool,
    tokens_per_image: int,
    batch: GlobalBatch | None = None,
) -> Routing:
    """Choose experts: softmax over all experts first, then top k (V-MoE, eq. 2), then the capacity limit if any.

    Args:
        logits_TE: of any router, tokens of one image next to each other.
        training: adds the noise and selects ``capacity_ratio`` over ``eval_capacity_ratio``.
        tokens_per_image: S, for groups that are counted in images.
        batch: where the logits belong in the batch of several processes, if there are several. Losses and capacities
            are then those of the whole batch. Every process draws the noise of the whole batch and takes its own part.
    """
    with full_precision_region(logits_TE):
        logits_TE = full_precision(logits_TE)
        noise_std = options.noise / options.num_experts if training else 0.0
        whole_noise_TE = _noise(logits_TE, batch) if noise_std else None
        noise_TE = whole_noise_TE if whole_noise_TE is None or batch is None else batch.take(whole_noise_TE)
        own = choose(logits_TE, noise_TE, noise_std, options.top_k)
        chosen_TK = own.chosen_TK
        gates_TK = chosen_TK / chosen_TK.sum(-1, keepdim=True) if options.renormalize else chosen_TK

        whole = own
        if batch is not None and (options.losses or options.ratio(training) is not None):
            whole = choose(batch.gather(logits_TE), whole_noise_TE, noise_std, options.top_k)
        group_size = options.group_size(whole.logits_TE.shape[0], tokens_per_image)
        losses = routing_losses(options.losses, whole, group_size)
        kept_TK = _kept(whole, options, training, group_size)
        if kept_TK is not None:
            kept_TK = kept_TK if batch is None else batch.take(kept_TK)
            gates_TK = gates_TK * kept_TK
    return Routing(own.experts_TK, gates_TK, kept_TK, own.probs_TE, losses)


def _noise(logits_TE: Tensor, batch: GlobalBatch | None) -> Tensor:
    """Of the whole batch, from the global generator, which is in the same state in every process."""
    shape = logits_TE.shape if batch is None else batch.whole_shape(logits_TE.shape)
    return torch.randn(shape, dtype=logits_TE.dtype, device=logits_TE.device)


def _kept(choice: Choice, options: RoutingOptions, training: bool, group_size: int) -> Tensor | None:
    """Which assignments find a slot in their expert's buffer, ``[T, K]``; None where buffers have no limit."""
    ratio = options.ratio(training)
    if ratio is None:
        return None
    num_tokens, top_k = choice.experts_TK.shape
    capacities = group_capacities(
        num_tokens, group_size, options.num_experts, top_k, ratio, options.rounding, options.min_capacity
    )
    # All but the last are equal. They are filled in on the device, since sending a list there waits for it.
    capacity_G = torch.full((len(capacities),), max(capacities, default=0), device=choice.experts_TK.device)
    capacity_G[-1:] = capacities[-1] if capacities else 0
    chosen_TK = choice.chosen_TK.detach()
    slots_TK = allocate(
        choice.experts_TK, chosen_TK, group_size, options.num_experts, options.allocation, options.priority
    )
    return kept(slots_TK, capacity_G, group_size)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: object, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
