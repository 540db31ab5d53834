"""Helpers for objectives that compute gradients themselves and combine them before the optimiser step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sfmoe_dg.algorithms.base import Algorithm
from sfmoe_dg.algorithms.shared.precision import Precision


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that require gradients; some backbones freeze part of theirs."""
    return [p for p in module.parameters() if p.requires_grad]


def gradients(
    loss: Tensor,
    parameters: Sequence[nn.Parameter],
    precision: Precision,
    *,
    retain_graph: bool = False,
    create_graph: bool = False,
) -> list[Tensor]:
    """The gradients of ``loss`` with respect to ``parameters``; zero for those on which it does not depend.

    The loss is scaled for the backward pass, as float16 needs, and the gradients are scaled back, so that they can be
    compared and combined.
    """
    scaled = torch.autograd.grad(
        precision.scaler.scale(loss),
        parameters,
        retain_graph=retain_graph or create_graph,
        create_graph=create_graph,
        allow_unused=True,
        materialize_grads=True,
    )
    scale = precision.scaler.get_scale()
    return list(scaled) if scale == 1 else [gradient / scale for gradient in scaled]


def step_along(
    algorithm: Algorithm,
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[nn.Parameter],
    directions: Sequence[Tensor],
) -> None:
    """One optimiser step with ``directions`` as gradients; float16's scaler skips it if an entry is not finite."""
    optimizer.zero_grad()
    scale = algorithm.precision.scaler.get_scale()
    for parameter, direction in zip(parameters, directions, strict=True):
        parameter.grad = direction if scale == 1 else direction * scale
    algorithm.take_steps(optimizer)
