"""Helpers for objectives that make their own gradients or run the network several times within one update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sfmoe_dg.algorithms.base import Algorithm, Precision


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that gradients can be taken of; some backbones freeze part of theirs."""
    return [p for p in module.parameters() if p.requires_grad]


def run_domain(network: nn.Sequential, x: Tensor, domain: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and routing losses of images ``x`` of one training domain under ``network = (featurizer, classifier)``."""
    featurizer: Any = network[0]
    features, losses = featurizer.forward_with_losses(x, torch.full((len(x),), domain, device=x.device))
    return network[1](features), losses


def gradients(
    loss: Tensor,
    parameters: Sequence[nn.Parameter],
    precision: Precision,
    *,
    retain_graph: bool = False,
    create_graph: bool = False,
) -> list[Tensor]:
    """Gradients of ``loss``, zero where a parameter has no part in it.

    The loss is scaled on the way back, as float16 needs, and the gradients are scaled down again: what compares or
    combines them sees their true size.
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
    """One optimiser step with ``directions`` in the place of the gradients; skipped by float16 if one overflowed."""
    optimizer.zero_grad()
    scale = algorithm.precision.scaler.get_scale()
    for parameter, direction in zip(parameters, directions, strict=True):
        parameter.grad = direction if scale == 1 else direction * scale
    algorithm.take_steps(optimizer)


def from_host(drawn: Tensor, like: Tensor) -> Tensor:
    """What was drawn on the CPU, on the device of ``like``, without waiting for what that is doing.

    CUDA has taken the few bytes when the call returns; of other devices this is not known.
    """
    return drawn.to(like.device, non_blocking=like.is_cuda)
