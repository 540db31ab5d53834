"""Several processes that share every minibatch: their numbers, and exchanges that gradients pass through.

Every process holds a part of the minibatch. It gathers the features of all parts and computes the objective of the
*whole* minibatch, so all processes have the same loss. The backward of :meth:`GlobalBatch.gather` gives every process
the gradient of its own rows, multiplied by the number of processes. The mean of all processes' gradients is then the
gradient of that loss.
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
    """Connect with the other processes: by NCCL between CUDA devices, by gloo otherwise.

    Returns:
        a store that all of them can read and write.

    Raises:
        UserError: if they cannot be reached, or torch cannot connect processes on this kind of device.
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
    """Undo :func:`join`; nothing happens if it was not called."""
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
    """Where the rows of this process belong among the rows of all processes.

    A pass runs over one or several domains. Every process has an equal share of each domain's rows, in the order of the
    ranks. The order of the whole is the one that a single process has: one domain after the other.

    Attributes:
        parts: domains in one pass.
    """

    world: World
    parts: int = 1

    def gather(self, rows: Tensor) -> Tensor:
        """The rows ``[T, ...]`` of all processes in the order of a single process, ``[size · T, ...]``.

        The gradient is right if all processes compute the same from the result; see the top of the file.
        """
        gathered = _Gather.apply(rows, self.world)
        return gathered.unflatten(1, (self.parts, -1)).transpose(0, 1).flatten(0, 2)

    def take(self, rows: Tensor) -> Tensor:
        """The rows of this process among those of all, which are given; nothing is sent."""
        return rows.unflatten(0, (self.parts, self.world.size, -1))[:, self.world.rank].flatten(0, 1)

    def whole_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of all processes' rows together."""
        return (self.world.size * shape[0], *shape[1:])


class _Gather(Function):
    """``[...]`` of every process → ``[size, ...]`` on all of them."""

    @staticmethod
    def forward(x: Tensor, world: World) -> Tensor:
        gathered = x.new_empty((world.size * x.shape[0], *x.shape[1:]))
        dist.all_gather_into_tensor(gathered, x.contiguous())
        return gathered.unflatten(0, (world.size, x.shape[0]))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.world = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad[ctx.world.rank] * ctx.world.size, None


def exchange_rows(rows: Tensor, sent: list[int], received: list[int]) -> Tensor:
    """Send the first ``sent[0]`` rows to process 0, the next ``sent[1]`` to process 1, and so on.

    ``received[i]`` is how many rows process i sends here. Returns them in the order of the ranks. Gradients are sent
    back the same way and not rescaled.
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


def all_max(*values: float) -> list[float]:
    """The element-wise maximum over all processes; also a barrier."""
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return tensor.tolist()


def gather_all(value: Any) -> list[Any]:
    """The values that all processes give, in the order of their ranks; they must be picklable."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
