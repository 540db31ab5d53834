"""Several processes that share every minibatch: who is who, and the exchanges between them that gradients go through.

Every process computes the objective of the *whole* minibatch from gathered features, so that all of them hold the same
loss. What a process contributes to it reaches its weights through :meth:`GlobalBatch.gather`, whose backward multiplies
by the number of processes; the mean of all processes' gradients is then the gradient of the one loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.world import World as World


def join(world: World, device: torch.device, init_method: str = "env://", timeout_minutes: float = 30) -> dist.Store:
    """Meet the other processes: NCCL between CUDA devices, gloo otherwise. Returns what all of them can write to.

    Raises:
        UserError: if they cannot be reached, or their device has no such exchange.
    """
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"several processes can share a run on cpu and cuda devices, not on {device.type}")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        store, rank, size = next(iter(dist.rendezvous(init_method, world.rank, world.size)))
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=dist.PrefixStore("group", store),
            rank=rank,
            world_size=size,
            timeout=timedelta(minutes=timeout_minutes),
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(f"process {world.rank} of {world.size} cannot reach the others: {error}") from None
    return dist.PrefixStore("notes", store)


def leave() -> None:
    """The opposite of :func:`join`; nothing happens where there is nothing to leave."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def share_of(batch_size: int, world: World) -> slice:
    """The images of a domain's minibatch that this process reads.

    Raises:
        UserError: if the processes cannot have equally many.
    """
    if batch_size % world.size:
        raise UserError(
            f"a batch of {batch_size} images per domain cannot be divided among {world.size} processes; "
            f"choose a batch_size that is a multiple of {world.size}"
        )
    own = batch_size // world.size
    return slice(world.rank * own, (world.rank + 1) * own)


@dataclass(frozen=True)
class GlobalBatch:
    """How the rows that this process computes lie in those of all.

    A pass runs over one part per domain. Of each part every process has an equal share, in the order of the ranks; one
    process alone would have the parts one after the other.

    Attributes:
        parts: domains in one pass.
    """

    world: World
    parts: int = 1

    def gather(self, rows: Tensor) -> Tensor:
        """Everyone's rows ``[T, ...]`` in one process's order, ``[size · T, ...]``.

        The gradient is right if all processes compute the same of the result; see the top of the file.
        """
        everyones = _Gather.apply(rows, self.world)
        return everyones.unflatten(1, (self.parts, -1)).transpose(0, 1).flatten(0, 2)

    def take(self, rows: Tensor) -> Tensor:
        """The rows of this process out of everyone's, which it must hold already; no exchange."""
        return rows.unflatten(0, (self.parts, self.world.size, -1))[:, self.world.rank].flatten(0, 1)

    def whole_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of everyone's rows."""
        return (self.world.size * shape[0], *shape[1:])


class _Gather(Function):
    """``[...]`` of every process → ``[size, ...]`` on all of them."""

    @staticmethod
    def forward(x: Tensor, world: World) -> Tensor:
        everyones = x.new_empty((world.size * x.shape[0], *x.shape[1:]))
        dist.all_gather_into_tensor(everyones, x.contiguous())
        return everyones.unflatten(0, (world.size, x.shape[0]))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.world = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad[ctx.world.rank] * ctx.world.size, None


def exchange_rows(rows: Tensor, sent: list[int], received: list[int]) -> Tensor:
    """The first ``sent[0]`` rows to process 0, the next ``sent[1]`` to process 1, …; what came, in the senders' order.

    The gradient travels back the same way and is not rescaled.
    """
    return _Exchange.apply(rows, sent, received)


class _Exchange(Function):
    """all-to-all; its transpose is the all-to-all with both lists swapped."""

    @staticmethod
    def forward(rows: Tensor, sent: list[int], received: list[int]) -> Tensor:
        arrived = rows.new_empty((sum(received), *rows.shape[1:]))
        dist.all_to_all_single(arrived, rows.contiguous(), received, sent)
        return arrived

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.sent, ctx.received = inputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _Exchange.apply(grad, ctx.received, ctx.sent), None, None


def highest(*values: float) -> list[float]:
    """The largest that any process gives, place by place; also a place where all wait for each other."""
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return tensor.tolist()


def everyones(value: Any) -> list[Any]:
    """One picklable value of every process, in the order of their ranks."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
