"""Auxiliary losses that keep experts in use: importance, load, balance, assignments.

Every loss takes groups of tokens, ``[..., S, E]``, and returns one value per group, ``[...]``.

Legend: G groups, S tokens of a group, T tokens, E experts, K choices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.registry import unknown
from sfmoe_dg.models.moe.choice import Choice

LOSSES = ("importance", "load", "balance", "assignments")
"""The names that :func:`routing_losses` knows."""

MIXES: Mapping[str, Mapping[str, float]] = {
    "balance": {"balance": 1.0},
    "importance_load": {"importance": 0.5, "load": 0.5},
    "assignments": {"assignments": 1.0},
    "none": {},
}
"""Named mixtures: ``balance`` is SF-MoE's (June 2022 code), ``importance_load`` GMoE's and V-MoE's half-and-half
(weight 0.01, i.e. 0.005 each), ``assignments`` WideNet's."""


def weighted(mix: str, weight: float) -> tuple[tuple[str, float], ...]:
    """The (loss, weight) pairs of a named mixture times ``weight``.

    Raises:
        UserError: on an unknown mixture, or a weight that is negative or not finite.
    """
    if mix not in MIXES:
        raise unknown("routing loss", mix, MIXES)
    if not (math.isfinite(weight) and weight >= 0):
        raise UserError(f"routing_loss_weight is {weight!r}; it must be a finite number of at least 0")
    return tuple((name, share * weight) for name, share in MIXES[mix].items() if share * weight > 0)


def cv_squared(x: Tensor) -> Tensor:
    """(population standard deviation / mean)² over the last dimension."""
    return x.var(-1, unbiased=False) / x.mean(-1).square()


def importance_loss(probs_SE: Tensor) -> Tensor:
    """CV² of the experts' summed probabilities; noise-free softmax goes in (V-MoE, appendix A.2)."""
    return cv_squared(probs_SE.sum(-2))


def load_loss(logits_SE: Tensor, noisy_logits_SE: Tensor, noise_std: float, top_k: int) -> Tensor:
    """CV² of the experts' chances to be among the top k if the noise were drawn again (V-MoE, appendix A.2).

    The threshold is the k-th largest *noisy logit*: both sides of the comparison are logits.
    """
    threshold_S1 = noisy_logits_SE.topk(top_k, dim=-1).values[..., -1:]
    z_SE = (threshold_S1 - logits_SE) / noise_std
    # 1 - Phi(z), written with erfc so that small chances keep their digits.
    chance_SE = 0.5 * torch.special.erfc(z_SE * math.sqrt(0.5))
    return cv_squared(chance_SE.mean(-2))


def balance_loss(probs_SE: Tensor) -> Tensor:
    """E² · mean_i(f_i · P_i), f the fraction of tokens whose best expert is i, P the mean probability; 1 when uniform.

    GShard, algorithm 1; the form that V-MoE's and SF-MoE's codes use.
    """
    num_experts = probs_SE.shape[-1]
    best_SE = _one_hot(probs_SE.argmax(-1), num_experts, probs_SE.dtype)
    return num_experts * (best_SE.mean(-2) * probs_SE.mean(-2)).sum(-1)


def assignment_loss(probs_SE: Tensor, experts_SK: Tensor) -> Tensor:
    """E · sum_i(m_i · P_i), m the fraction of all S·K assignments that chose expert i; 1 when uniform (WideNet)."""
    num_experts = probs_SE.shape[-1]
    chosen_SE = _one_hot(experts_SK, num_experts, probs_SE.dtype).mean(-2)
    return num_experts * (chosen_SE.mean(-2) * probs_SE.mean(-2)).sum(-1)


def routing_losses(weights: tuple[tuple[str, float], ...], choice: Choice, group_size: int) -> dict[str, Tensor]:
    """The weighted losses by name, each the mean over groups of ``group_size`` tokens (the last may be shorter).

    ``load`` is defined by the noise, so it is absent where there is none (as in V-MoE's code).
    """
    losses: dict[str, Tensor] = {}
    for name, weight in weights:
        if choice.probs_TE.shape[0] == 0:
            losses[name] = choice.probs_TE.sum()
        elif name == "importance":
            losses[name] = weight * _per_group(importance_loss, group_size, choice.probs_TE)
        elif name == "load" and choice.noisy_logits_TE is not None:
            load = partial(load_loss, noise_std=choice.noise_std, top_k=choice.experts_TK.shape[-1])
            losses[name] = weight * _per_group(load, group_size, choice.logits_TE, choice.noisy_logits_TE)
        elif name == "balance":
            losses[name] = weight * _per_group(balance_loss, group_size, choice.noisy_probs_TE)
        elif name == "assignments":
            losses[name] = weight * _per_group(assignment_loss, group_size, choice.noisy_probs_TE, choice.experts_TK)
    return losses


def _per_group(loss: Callable[..., Tensor], group_size: int, *tensors: Tensor) -> Tensor:
    whole = tensors[0].shape[0] // group_size
    cut = whole * group_size
    values = []
    if whole:
        values.append(loss(*(t[:cut].unflatten(0, (whole, group_size)) for t in tensors)))
    if cut < tensors[0].shape[0]:
        values.append(loss(*(t[cut:].unsqueeze(0) for t in tensors)))
    return torch.cat(values).mean()


def _one_hot(index: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """One-hot without ``F.one_hot``, which looks at the values on the host."""
    return (index.unsqueeze(-1) == torch.arange(size, device=index.device)).to(dtype)
