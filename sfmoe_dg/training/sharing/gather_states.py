"""Convert states that several processes hold in parts to the state of a single process, and back, so that a run can go
on with any number of processes.

While weights are divided, ``state_dict`` of the algorithm and its optimisers returns whole tensors, on the CPU of the
leading process and empty on the others, and ``load_state_dict`` takes them. All processes must call ``state_dict``.
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
    """Mark a parameter as the rows ``rows`` of a stack that has ``whole`` rows."""
    parameter.part_of = (whole, rows)  # type: ignore[attr-defined]


def is_part(parameter: Tensor) -> bool:
    """Whether other processes hold more rows of this parameter."""
    return hasattr(parameter, "part_of")


@dataclass(frozen=True)
class Weights:
    """Converts weights, and tensors of their shapes: from this process's part to the whole, and back."""

    world: World

    def make_states_whole(self, algorithm: nn.Module) -> None:
        """Let the algorithm save and load whole weights."""

        def after_saving(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
            made: dict[int, Tensor] = {}
            for name, parameter in module.named_parameters(prefix=prefix.rstrip("."), remove_duplicate=False):
                # A parameter with several names stays one tensor.
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
        """Let the optimiser save and load whole running means of its weights."""
        optimizer.register_state_dict_post_hook(lambda made, state: self._convert(made, state, self._whole))
        optimizer.register_load_state_dict_pre_hook(lambda made, state: self._convert(made, state, self._part))

    def _convert(self, optimizer: torch.optim.Optimizer, state: dict[str, Any], convert: Any) -> dict[str, Any]:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        converted = {}
        for number, values in state["state"].items():
            parameter = parameters[number]
            converted[number] = {
                # Values that have not the weight's shape are counters.
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
        """All processes' rows. They are padded to be sent, since processes may hold different numbers of rows."""
        whole, held = parameter.part_of
        counts = [len(rows) for rows in held_experts(whole, self.world)]
        most = max(counts)
        padded = rows.detach().new_zeros((most, *rows.shape[1:]))
        padded[: len(held)] = rows.detach()
        gathered = padded.new_empty((self.world.size * most, *rows.shape[1:]))
        dist.all_gather_into_tensor(gathered, padded)
        return torch.cat([part[:n] for part, n in zip(gathered.split(most), counts, strict=True)])

    def _part(self, whole: Tensor, parameter: Any) -> Tensor:
        if isinstance(parameter, DTensor):
            whole = whole.to(parameter.device)
            # Every process has read the whole tensor: nothing needs to be sent.
            return distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)
        _, held = parameter.part_of
        return whole[held.start : held.stop]
