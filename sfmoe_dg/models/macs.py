"""Multiply-accumulates of a model, counted at every matrix product and convolution of a forward pass.

Works on any device. On ``meta`` nothing is computed, so that even the largest models take seconds. Matrix
products, convolutions and attention count; additions, norms, softmax and activations do not, as in the papers' tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sfmoe_dg.models.moe.layers import moe_layers


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of one forward pass.

    Attributes:
        total: of the whole pass.
        modules: of every submodule that has any, by its name in the model, children included.
    """

    total: int
    modules: Mapping[str, int]


def count_macs(model: nn.Module, *inputs: Any, buffers: bool = False) -> Macs:
    """Run ``model(*inputs)`` without gradients, in the mode it is in, and count.

    Args:
        buffers: count the experts of a layer with capacity ratio C as V-MoE's table does: buffers of C·K·tokens rows,
            not rounded, are computed in full, whether filled or not. Without it the rows that are really computed
            count: K per token, less what is dropped (on ``meta``, where no token is known, nothing is dropped).
    """
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten._grouped_mm: _grouped_mm_flops})
    ratios = _capacity_ratios(model) if buffers else {}
    with torch.no_grad(), _dropless(model, ratios), counter:
        model(*inputs)
    # The counter counts a multiplication and an addition as two, and names modules after the class of the model.
    flops = {name: sum(by_op.values()) for name, by_op in counter.get_flop_counts().items()}
    root = type(model).__name__
    total = flops.get("Global", 0) // 2
    modules = {name[len(root) + 1 :]: n // 2 for name, n in flops.items() if name.startswith(f"{root}.")}
    for layer, ratio in ratios.items():
        rows = f"{layer}.experts" if layer else "experts"
        extra = round((ratio - 1) * modules.get(rows, 0))
        total += extra
        for name in modules:
            if rows == name or rows.startswith(f"{name}."):
                modules[name] += extra
    return Macs(total, modules)


def _grouped_mm_flops(a: tuple[int, ...], b: tuple[int, ...], *_: Any, out_shape: Any = None, **__: Any) -> int:
    """``[R, D] × [E, D, F]`` multiplies every row once; ``[D, R] × [R, F]`` (a weight gradient) likewise."""
    return 2 * prod(a[-2:]) * b[-1]


def _capacity_ratios(model: nn.Module) -> dict[str, float]:
    ratios = {name: layer.options.ratio(layer.training) for name, layer in moe_layers(model)}
    return {name: ratio for name, ratio in ratios.items() if ratio is not None}


@contextmanager
def _dropless(model: nn.Module, names: Mapping[str, float]) -> Iterator[None]:
    """Within the block the named layers drop nothing: each computes K·T rows. Full buffers have C times as many."""
    before = [(layer, layer.options) for name, layer in moe_layers(model) if name in names]
    try:
        for layer, options in before:
            layer.options = options.changed({"capacity_ratio": None, "eval_capacity_ratio": None})
        yield
    finally:
        for layer, options in before:
            layer.options = options
