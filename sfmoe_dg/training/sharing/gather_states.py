"""States of one process from the parts that several hold, so that a run can go on with any number of processes.

While weights are shared out, ``state_dict`` and ``load_state_dict`` of the algorithm and its optimisers speak of whole
tensors: on the CPU of the leading process, empty on the others. Every process must call ``state_dict``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from sfmoe_dg.foundation.processes import World
from sfmoe_dg.models.moe.expert_parallel import held_experts


def mark_as_part(parameter: nn.Parameter, whole: int, rows: range) -> None:
    """Note that a parameter is ``rows`` of a stack of ``whole``."""
    parameter.part_of = (whole, rows)  # type: ignore[attr-defined]


def is_part(parameter: Tensor) -> bool:
    """Whether other processes hold more rows of this parameter."""
    return hasattr(parameter, "part_of")


@dataclass(frozen=True)
class Weights:
    """Between parts and wholes of tensors that have the shape of a parameter."""

    world: World

    def make_states_whole(self, algorithm: nn.Module) -> None:
        """For an algorithm's own state."""

        def after_saving(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
            made: dict[int, Tensor] = {}
            for name, parameter in module.named_parameters(prefix=prefix.rstrip("."), remove_duplicate=False):
                # A parameter that goes by several names stays one tensor.
                if id(parameter) not in made and self._shared(parameter):
                    made[id(parameter)] = self._whole(state[name], parameter)
                state[name] = made.get(id(parameter), state[name])

        def before_loading(module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
            for name, parameter in module.named_parameters(prefix=prefix.rstrip("."), remove_duplicate=False):
                if name in state and self._shared(parameter):
                    state[name] = self._part(state[name], parameter)

        algorithm.register_state_dict_post_hook(after_saving)
        algorithm.register_load_state_dict_pre_hook(before_loading)

    def make_optimizer_states_whole(self, optimizer: torch.optim.Optimizer) -> None:
        """For the running means that an optimiser keeps per weight."""
        optimizer.register_state_dict_post_hook(lambda made, state: self._convert(made, state, self._whole))
        optimizer.register_load_state_dict_pre_hook(lambda made, state: self._convert(made, state, self._part))

    def _convert(self, optimizer: torch.optim.Optimizer, state: dict[str, Any], convert: Any) -> dict[str, Any]:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        converted = {}
        for number, values in state["state"].items():
            parameter = parameters[number]
            converted[number] = {
                # Beside tensors of the weight's own shape there are only counters.
                name: convert(value, parameter) if self._shared(parameter) and value.dim() else value
                for name, value in values.items()
            }
        return {**state, "state": converted}

    @staticmethod
    def _shared(parameter: Tensor) -> bool:
        return isinstance(parameter, DTensor) or is_part(parameter)

    def _whole(self, tensor: Tensor, parameter: Tensor) -> Tensor:
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else self._stacked(tensor, parameter)
        return whole.detach().cpu() if self.world.leads else torch.empty(0, dtype=whole.dtype)

    def _stacked(self, rows: Tensor, parameter: Any) -> Tensor:
        """All processes' rows; padded on the way, since they need not be equally many."""
        whole, held = parameter.part_of
        counts = [len(rows) for rows in held_experts(whole, self.world)]
        most = max(counts)
        padded = rows.detach().new_zeros((most, *rows.shape[1:]))
        padded[: len(held)] = rows.detach()
        everyones = padded.new_empty((self.world.size * most, *rows.shape[1:]))
        dist.all_gather_into_tensor(everyones, padded)
        return torch.cat([part[:n] for part, n in zip(everyones.split(most), counts, strict=True)])

    def _part(self, whole: Tensor, parameter: Any) -> Tensor:
        if isinstance(parameter, DTensor):
            whole = whole.to(parameter.device)
            # Every process has read the whole: nothing needs to be sent.
            return distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)
        _, held = parameter.part_of
        return whole[held.start : held.stop]
