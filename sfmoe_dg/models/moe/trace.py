"""Recording what every mixture-of-experts layer decides, without touching the model's code.

Legend: T tokens, K choices, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.models.moe.layers import MoE, moe_layers
from sfmoe_dg.models.moe.routing import Routing


@dataclass(frozen=True)
class LayerTrace:
    """One call of one MoE layer, in compact arrays on the CPU.

    Attributes:
        layer: the layer's name in the model, e.g. ``blocks.2.mlp``.
        shape: the leading axes of the layer's input, (images, tokens of one image).
        experts: chosen experts, best first, ``[*shape, K]``, uint8 (uint16 for more than 256 experts).
        gates: combine weights, ``[*shape, K]``, float16 or float32; 0 where dropped.
        kept: which assignments were not dropped, bool ``[*shape, K]``.
    """

    layer: str
    shape: tuple[int, ...]
    experts: np.ndarray
    gates: np.ndarray
    kept: np.ndarray


@contextmanager
def routing_trace(
    model: nn.Module,
    callback: Callable[[LayerTrace], None],
    *,
    layers: list[str] | None = None,
    gate_dtype: torch.dtype = torch.float16,
) -> Iterator[None]:
    """Within the ``with`` block, call ``callback`` once per forward pass of each MoE layer, in the order of the passes.

    Nothing is kept, so a whole data set streams through: at 224 px one image takes 197·K·4 bytes per layer. A shared
    layer that runs several times in one pass reports each time under the same name.

    Args:
        layers: names of the layers to record; all by default.
        gate_dtype: float16 or float32.

    Raises:
        UserError: if the model has no MoE layer, or none of a given name.
    """
    named = dict(moe_layers(model))
    if not named:
        raise UserError("this model has no mixture-of-experts layer, so there is no routing to record")
    for name in layers or ():
        if name not in named:
            raise UserError(f"no mixture-of-experts layer {name!r}; this model has {', '.join(named)}")
    handles = [
        layer.register_forward_hook(_hook(name, callback, gate_dtype))
        for name, layer in named.items()
        if layers is None or name in layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _index_type(num_experts: int) -> Any:
    return np.uint8 if num_experts <= 256 else np.uint16


def _hook(name: str, callback: Callable[[LayerTrace], None], gate_dtype: torch.dtype) -> Callable[..., None]:
    def hook(layer: MoE, inputs: tuple[Tensor, ...], output: tuple[Tensor, Routing]) -> None:
        routing = output[1]
        shape = (*inputs[0].shape[:-1], routing.experts_TK.shape[-1])
        experts = routing.experts_TK.detach().cpu().numpy().astype(_index_type(layer.options.num_experts))
        kept = torch.ones_like(routing.experts_TK, dtype=torch.bool) if routing.kept_TK is None else routing.kept_TK
        gates = routing.gates_TK.detach().to(gate_dtype).cpu().numpy()
        callback(
            LayerTrace(
                name, tuple(shape[:-1]), experts.reshape(shape), gates.reshape(shape), kept.cpu().numpy().reshape(shape)
            )
        )

    return hook
