"""Learning-rate schedule, layer-wise decay of the learning rate, gradient clipping and fused Adam.

With the default hyper-parameters the learning rate is constant and gradients are not clipped, as in DomainBed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from timm.models import group_parameters
from torch import nn

from sfmoe_dg.foundation.errors import UserError


def lr_factor(step: int, steps: int, hparams: Mapping[str, Any]) -> float:
    """The factor on the learning rate at a step in ``range(steps)``.

    It rises linearly during ``warmup_steps`` steps. Then it stays 1 (``lr_schedule`` 'constant') or falls to 0 along
    half a cosine ('cosine'; Loshchilov and Hutter, SGDR, 2017, without restarts).

    Examples:
        >>> hparams = {"lr_schedule": "cosine", "warmup_steps": 1}
        >>> [round(lr_factor(step, 5, hparams), 2) for step in range(5)]
        [0.5, 1.0, 0.85, 0.5, 0.15]
    """
    warmup = hparams.get("warmup_steps", 0)
    if step < warmup:
        return float((step + 1) / (warmup + 1))
    if hparams.get("lr_schedule", "constant") == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def set_lr_factor(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's learning rate to ``factor`` times its initial one; calling it twice changes nothing."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor


def parameter_groups(
    parameters: Iterable[nn.Parameter], module: nn.Module, lr: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Group parameters by learning rate: ``lr · layer_decay**(layers above)`` in a timm backbone, ``lr`` elsewhere.

    Source: BEiT, section 2.4, as in timm.

    Raises:
        UserError: if ``module`` holds no backbone that knows the order of its layers.
    """
    scales: dict[int, float] = {}
    network: Any
    for network in module.modules():
        if hasattr(network, "group_matcher"):
            named = dict(network.named_parameters())
            layers = group_parameters(network, network.group_matcher(coarse=False), reverse=True)
            top = max(layers.values())
            scales |= {id(named[name]): layer_decay ** (top - layer) for name, layer in layers.items()}
            break
    else:
        raise UserError("hyper-parameter 'layer_decay' needs a timm backbone, whose layers have an order; set it to 1")
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        groups.setdefault(scales.get(id(parameter), 1.0), []).append(parameter)
    return [{"params": members, "lr": lr * scale} for scale, members in sorted(groups.items())]


def refuse_layer_decay(hparams: Mapping[str, Any], who: str, where: str) -> None:
    """Refuse ``layer_decay`` for an algorithm whose own optimiser uses one learning rate for all layers.

    Raises:
        UserError: naming the algorithm ``who``.
    """
    if hparams.get("layer_decay", 1.0) != 1.0:
        raise UserError(
            f"hyper-parameter 'layer_decay' in {where} is {hparams['layer_decay']!r}, but {who} trains all layers at "
            "one learning rate; leave it at 1"
        )


def optimizers(module: nn.Module) -> Iterator[torch.optim.Optimizer]:
    """The optimisers among a module's attributes."""
    return (value for value in vars(module).values() if isinstance(value, torch.optim.Optimizer))


def fuse_on_cuda(optimizer: torch.optim.Optimizer) -> None:
    """Use the fused implementation of Adam, one kernel for all weights, if all weights are on CUDA.

    Otherwise torch chooses. On the CPU the fused implementation rounds differently, which would change records.
    """
    if isinstance(optimizer, torch.optim.Adam):
        weights = [p for group in optimizer.param_groups for p in group["params"]]
        set_fused(optimizer, all(p.is_cuda and p.is_floating_point() for p in weights))


def set_fused(optimizer: torch.optim.Adam, fused: bool) -> None:
    """Set the constructor's argument ``fused`` afterwards; running means stay, step counts move to the right device."""
    for group in optimizer.param_groups:
        group["fused"] = fused or None
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            if "step" in state:
                state["step"] = state["step"].to(parameter.device if fused else "cpu")
    # This attribute tells float16's gradient scaler that the step itself checks the gradients for overflow.
    optimizer._step_supports_amp_scaling = fused


def clip_gradients(optimizer: torch.optim.Optimizer, max_norm: float) -> None:
    """Scale the gradients of all of an optimiser's parameters to a joint norm of at most ``max_norm``."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    torch.nn.utils.clip_grad_norm_(parameters, max_norm)
