"""Routers and routing: from token features to chosen experts, combine weights and auxiliary losses.

Legend: B images, G groups, T tokens (all tokens of a batch), S tokens of one image, D width, E experts, K choices.
A name ends in the axes of its tensor: ``x_TD``, ``gates_TK``.

Everything in this file is computed in float32 (float64 for float64 inputs), also under autocast.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfmoe_dg.errors import UserError
from sfmoe_dg.models import allocation as alloc
from sfmoe_dg.models.balance import LOSSES, routing_losses
from sfmoe_dg.registry import unknown


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
    """Everything about routing that carries no parameters, so it may change on a trained model.

    Attributes:
        num_experts: E.
        top_k: K, choices per token.
        noise: standard deviation of the Gaussian noise on the logits, in units of 1/E; in training only. The noisy
            softmax chooses and weighs the experts; importance looks at the noise-free one (V-MoE, appendix A).
        renormalize: divide the K combine weights by their sum, before any drop.
        capacity_ratio: slots per expert as a multiple of K·tokens/E in training; None is dropless.
        eval_capacity_ratio: the same in evaluation; None (default) makes evaluation independent of the batch.
        group: 'batch', 'image', or a number of images that are allocated, and whose losses are computed, together.
        allocation: 'vanilla', 'batch_priority' or 'token_order'; see :func:`sfmoe_dg.models.allocation.allocate`.
        priority: batch priority by the largest chosen probability ('max') or by their sum ('sum').
        rounding: 'round', 'ceil', 'ceil4' or 'floor'; see :data:`sfmoe_dg.models.allocation.ROUNDINGS`.
        min_capacity: the least number of slots per expert and group.
        losses: (name, weight) pairs; names in :data:`sfmoe_dg.models.balance.LOSSES`.

    Raises:
        UserError: if a value is outside what is said above.
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
        for kind, value, known in (
            ("allocation", self.allocation, alloc.ALLOCATIONS),
            ("priority", self.priority, alloc.PRIORITIES),
            ("capacity rounding", self.rounding, alloc.ROUNDINGS),
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


class LinearRouter(nn.Module):
    """Bias-free linear map from features to expert logits (V-MoE, WideNet, SF-MoE June 2022).

    The weight starts normal with variance 1/D (Flax's default kernel, which V-MoE's code uses).
    """

    def __init__(self, dim: int, num_experts: int, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_experts, dim, device=device, dtype=dtype))
        self.init_weights()

    def init_weights(self) -> None:
        nn.init.normal_(self.weight, std=self.weight.shape[1] ** -0.5)

    def forward(self, x_TD: Tensor) -> Tensor:
        """``[T, D]`` → logits ``[T, E]``, float32."""
        with full_precision_region(x_TD):
            x_TD = full_precision(x_TD)
            return F.linear(x_TD, self.weight.to(x_TD.dtype))


class CosineRouter(nn.Module):
    """Cosine of projected token and expert embedding over a learnable temperature (GMoE, ICLR 2023, eq. 6).

    Sizes and initial values follow the authors' code: projection to 256 with bias, embeddings N(0, 0.01²), temperature
    0.5, its reciprocal's logarithm clamped at log 100.
    """

    max_log_scale = math.log(100.0)

    def __init__(
        self,
        dim: int,
        num_experts: int,
        proj_dim: int = 256,
        temperature: float = 0.5,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.initial_log_scale = math.log(1.0 / temperature)
        self.proj = nn.Linear(dim, proj_dim, device=device, dtype=dtype)
        self.embeddings = nn.Parameter(torch.empty(num_experts, proj_dim, device=device, dtype=dtype))
        self.log_scale = nn.Parameter(torch.empty(1, device=device, dtype=dtype))
        self.init_weights()

    def init_weights(self) -> None:
        self.proj.reset_parameters()
        nn.init.normal_(self.embeddings, std=0.01)
        nn.init.constant_(self.log_scale, self.initial_log_scale)

    def forward(self, x_TD: Tensor) -> Tensor:
        """``[T, D]`` → logits ``[T, E]``, float32."""
        with full_precision_region(x_TD):
            x_TD = full_precision(x_TD)
            weights = (self.proj.weight, self.proj.bias, self.embeddings, self.log_scale)
            proj_w, proj_b, embeddings_EP, log_scale = (w.to(x_TD.dtype) for w in weights)
            x_TP = F.normalize(F.linear(x_TD, proj_w, proj_b), dim=-1)
            cosine_TE = F.linear(x_TP, F.normalize(embeddings_EP, dim=-1))
            return cosine_TE * log_scale.clamp(max=self.max_log_scale).exp()


ROUTERS: Mapping[str, type[LinearRouter] | type[CosineRouter]] = {"linear": LinearRouter, "cosine": CosineRouter}


def build_router(name: str, dim: int, num_experts: int, device: Any = None, dtype: Any = None) -> nn.Module:
    """The router of that name.

    Raises:
        UserError: if there is none.
    """
    if name not in ROUTERS:
        raise unknown("router", str(name), ROUTERS)
    return ROUTERS[name](dim, num_experts, device=device, dtype=dtype)


def top_k_experts(scores_TE: Tensor, top_k: int) -> Tensor:
    """The k best experts of every token, best first, the lower index first among equals, ``[T, K]``."""
    rest_TE = scores_TE.detach()
    chosen = []
    for k in range(top_k):
        best_T1 = rest_TE.argmax(-1, keepdim=True)
        chosen.append(best_T1)
        if k + 1 < top_k:
            rest_TE = rest_TE.scatter(-1, best_T1, -math.inf)
    return torch.cat(chosen, -1)


def route(logits_TE: Tensor, options: RoutingOptions, training: bool, tokens_per_image: int) -> Routing:
    """Choose experts: softmax over all experts first, then top k (V-MoE, eq. 2), then the capacity limit if any.

    Args:
        logits_TE: of any router, tokens of one image next to each other.
        training: adds the noise and selects ``capacity_ratio`` over ``eval_capacity_ratio``.
        tokens_per_image: S, for groups that are counted in images.
    """
    with full_precision_region(logits_TE):
        logits_TE = full_precision(logits_TE)
        probs_TE = logits_TE.softmax(-1)
        noise_std = options.noise / options.num_experts if training else 0.0
        noisy_logits_TE = logits_TE + noise_std * torch.randn_like(logits_TE) if noise_std else None
        choice_TE = probs_TE if noisy_logits_TE is None else noisy_logits_TE.softmax(-1)
        # Chosen by logits: probabilities that round to the same number would tie.
        ranked_TE = logits_TE if noisy_logits_TE is None else noisy_logits_TE
        experts_TK = top_k_experts(ranked_TE, options.top_k)
        chosen_TK = choice_TE.gather(-1, experts_TK)
        gates_TK = chosen_TK / chosen_TK.sum(-1, keepdim=True) if options.renormalize else chosen_TK

        group_size = options.group_size(logits_TE.shape[0], tokens_per_image)
        losses = routing_losses(
            options.losses, probs_TE, experts_TK, logits_TE, noisy_logits_TE, noise_std, choice_TE, group_size
        )
        kept_TK = _kept(experts_TK, chosen_TK, options, training, group_size)
        if kept_TK is not None:
            gates_TK = gates_TK * kept_TK
    return Routing(experts_TK, gates_TK, kept_TK, probs_TE, losses)


def _kept(
    experts_TK: Tensor, chosen_TK: Tensor, options: RoutingOptions, training: bool, group_size: int
) -> Tensor | None:
    ratio = options.ratio(training)
    if ratio is None:
        return None
    num_tokens, top_k = experts_TK.shape
    capacities = alloc.group_capacities(
        num_tokens, group_size, options.num_experts, top_k, ratio, options.rounding, options.min_capacity
    )
    capacity_G = torch.tensor(capacities, dtype=torch.int64, device=experts_TK.device)
    slots_TK = alloc.allocate(
        experts_TK, chosen_TK.detach(), group_size, options.num_experts, options.allocation, options.priority
    )
    return alloc.kept(slots_TK, capacity_G, group_size)


def full_precision_region(x: Tensor) -> AbstractContextManager[Any]:
    """Autocast switched off on the device of ``x``; ``meta`` has no autocast, and asking for it raises."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def full_precision(x: Tensor) -> Tensor:
    """float32, or float64 if it is that already."""
    return x if x.dtype == torch.float64 else x.float()


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
