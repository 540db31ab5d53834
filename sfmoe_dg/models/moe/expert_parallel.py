"""Expert parallelism: every process holds some experts of each layer; rows are sent to their experts and back.

Legend: R rows sorted by expert, D width, E experts of a layer, N processes, L experts that this process holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sfmoe_dg.foundation.processes import World, exchange_rows
from sfmoe_dg.models.moe.dispatch import Groups


def held_experts(num_experts: int, world: World) -> list[range]:
    """The experts that every process holds, consecutive ones; the first processes hold one more if there is a rest."""
    each, more = divmod(num_experts, world.size)
    starts = [rank * each + min(rank, more) for rank in range(world.size + 1)]
    return [range(start, stop) for start, stop in pairwise(starts)]


@dataclass(frozen=True)
class ExpertExchange:
    """How the rows of one layer reach their experts.

    All processes must call :meth:`run` together: it sends rows twice, and its gradient twice more.
    """

    world: World
    num_experts: int

    def run(self, experts: nn.Module, x_RD: Tensor, groups: Groups) -> Tensor:
        """What ``experts(x_RD, groups)`` would give if all experts were here, ``[R, D']``.

        Args:
            experts: those that this process holds, called as ``experts(rows, groups)``.
            x_RD: sorted by expert as ``groups`` says; rows of dropped assignments stay here and come back as zeros.
        """
        counts = self._gather_counts(groups)
        # The only wait for the device: the host must know how many rows go where.
        counts_NE = counts.tolist()
        held = held_experts(self.num_experts, self.world)
        mine = held[self.world.rank]
        counts_E = counts_NE[self.world.rank]
        sent = [sum(counts_E[e] for e in owned) for owned in held]
        received = [sum(counts_N[e] for e in mine) for counts_N in counts_NE]
        arrived = exchange_rows(x_RD[: sum(sent)], sent, received)

        # The rows from one process are sorted by expert; those from all processes are sorted again.
        local_counts = counts[:, mine.start : mine.stop].flatten()
        ids = torch.arange(len(mine), device=x_RD.device).repeat(self.world.size)
        here = Groups(ids.repeat_interleave(local_counts, output_size=sum(received))[:, None], None, len(mine))
        done = here.ungather(experts(here.gather(arrived), here))
        returned = exchange_rows(done, received, sent)
        dropped = returned.new_zeros((len(x_RD) - len(returned), returned.shape[1]))
        return torch.cat([returned, dropped])

    def _gather_counts(self, groups: Groups) -> Tensor:
        """Rows per expert in every process, ``[N, E]``."""
        ends_E = groups.ends_E.long()
        own_E = ends_E.diff(prepend=ends_E.new_zeros(1))
        counts = own_E.new_empty(self.world.size * self.num_experts)
        dist.all_gather_into_tensor(counts, own_E)
        return counts.unflatten(0, (self.world.size, self.num_experts))
