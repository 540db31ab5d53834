"""Which assignments an expert with a limited buffer keeps: vanilla, batch priority, token order.

Legend: T tokens, G groups, E experts, K choices, C capacity (slots per expert and group).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from sfmoe_dg.foundation.registry import unknown

ALLOCATIONS = ("vanilla", "batch_priority", "token_order")
PRIORITIES = ("max", "sum")

ROUNDINGS: Mapping[str, Callable[[float], int]] = {
    "round": lambda x: math.floor(x + 0.5),
    "ceil": math.ceil,
    "ceil4": lambda x: 4 * math.ceil(math.ceil(x) / 4),
    "floor": math.floor,
}
"""How a buffer becomes a whole number: ``round`` as in V-MoE's paper, ``ceil4`` as in its code, ``floor`` as in
WideNet's and SF-MoE's (June 2022) codes."""


def capacity(tokens: int, num_experts: int, top_k: int, ratio: float, rounding: str, minimum: int = 1) -> int:
    """Slots per expert for a group of ``tokens`` tokens: K · tokens · ratio / E, rounded; never below ``minimum``.

    Raises:
        UserError: on an unknown rounding.
    """
    if rounding not in ROUNDINGS:
        raise unknown("capacity rounding", rounding, ROUNDINGS)
    # Rounded to nine digits first: the rounding error of a ratio such as 1.05 must not add a slot.
    return max(minimum, ROUNDINGS[rounding](round(top_k * tokens * ratio / num_experts, 9)))


def allocate(
    experts_TK: Tensor,
    probs_TK: Tensor,
    group_size: int,
    num_experts: int,
    allocation: str,
    priority: str = "max",
) -> Tensor:
    """The slot of every assignment in its expert's queue, ``[T, K]``; a slot at or beyond the capacity is dropped.

    ``vanilla``: all first choices before all second choices, each in token order. ``batch_priority``: the same after
    sorting the tokens by priority, largest first, ties in token order (V-MoE, section 4.1). ``token_order``: tokens in
    order, each with all its choices (WideNet's code). Groups of ``group_size`` consecutive tokens have queues of their
    own. The order decides which assignments are dropped, not how many. Nothing here waits for the device.

    Args:
        experts_TK: chosen experts, best first.
        probs_TK: their probabilities, from which the priority is taken (``max`` or ``sum`` over k).
        group_size: consecutive tokens that share their queues.
    """
    num_tokens, top_k = experts_TK.shape
    device = experts_TK.device
    tokens_T = torch.arange(num_tokens, device=device)
    if allocation == "batch_priority":
        score_T = probs_TK.amax(-1) if priority == "max" else probs_TK.sum(-1)
        tokens_T = torch.argsort(score_T, descending=True, stable=True)
    choices_K = torch.arange(top_k, device=device)
    flat_TK = tokens_T[:, None] * top_k + choices_K
    queue = (flat_TK if allocation == "token_order" else flat_TK.T).reshape(-1)

    key_TK = experts_TK + num_experts * (torch.arange(num_tokens, device=device) // group_size)[:, None]
    key_queue = key_TK.reshape(-1)[queue]
    sorted_key, by_key = torch.sort(key_queue, stable=True)
    first = torch.searchsorted(sorted_key, sorted_key)
    slot_sorted = torch.arange(len(queue), device=device) - first
    slots = torch.empty_like(queue)
    slots[queue[by_key]] = slot_sorted
    return slots.view(num_tokens, top_k) if num_tokens else experts_TK.clone()


def kept(slots_TK: Tensor, capacity_G: Tensor, group_size: int) -> Tensor:
    """True where the assignment's slot lies within its group's capacity, ``[T, K]``."""
    group_T = torch.arange(slots_TK.shape[0], device=slots_TK.device) // group_size
    return slots_TK < capacity_G[group_T][:, None]


def group_capacities(
    num_tokens: int, group_size: int, num_experts: int, top_k: int, ratio: float, rounding: str, minimum: int
) -> list[int]:
    """The capacity of every group; the last group may be shorter and gets its own."""
    full, rest = divmod(num_tokens, group_size)
    sizes = [group_size] * full + ([rest] if rest else [])
    by_size = {s: capacity(s, num_experts, top_k, ratio, rounding, minimum) for s in set(sizes)}
    return [by_size[s] for s in sizes]
