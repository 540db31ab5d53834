"""Reorder the experts of one network like those of another; its outputs do not change.

Legend: E experts, P all parameters of one expert.
"""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from sfmoe_dg.models.moe.layers import MoE, moe_layers
from sfmoe_dg.models.moe.routers import CosineRouter, LinearRouter


@torch.no_grad()
def align_experts(network: nn.Module, reference: nn.Module) -> int:
    """Reorder every mixture's experts, and their rows in its router, in place; returns how many changed places.

    Experts correspond if their differences from the mean expert of their layer point in the same direction. Runs that
    start from one dense network begin with the same experts but with different routers, so that experts of the same
    number may specialise differently.
    """
    moved = 0
    for (_, layer), (_, other) in zip(moe_layers(network), moe_layers(reference), strict=True):
        order_E = _order(_differences(layer), _differences(other))
        moved += int((order_E != torch.arange(len(order_E), device=order_E.device)).sum())
        for parameter in (*layer.experts.parameters(), *_router_rows(layer)):
            parameter.copy_(parameter[order_E].clone())
    return moved


def _differences(layer: MoE) -> Tensor:
    """The difference of every expert from the mean expert, ``[E, P]``."""
    flat_EP = torch.cat([parameter.flatten(1) for parameter in layer.experts.parameters()], 1)
    return flat_EP - flat_EP.mean(0)


def _order(own_EP: Tensor, wanted_EP: Tensor) -> Tensor:
    """The own expert for every place: the assignment with the largest sum of inner products."""
    likeness_EE = wanted_EP.to(own_EP.device) @ own_EP.T
    _, chosen = linear_sum_assignment(likeness_EE.cpu().numpy(), maximize=True)
    return torch.as_tensor(chosen, device=own_EP.device)


def _router_rows(layer: MoE) -> list[nn.Parameter]:
    """The router's parameters that have a row for every expert."""
    linear = [module.weight for module in layer.router.modules() if isinstance(module, LinearRouter)]
    cosine = [module.embeddings for module in layer.router.modules() if isinstance(module, CosineRouter)]
    return linear + cosine
