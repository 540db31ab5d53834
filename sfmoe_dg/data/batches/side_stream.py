"""The next batch goes to a CUDA device while it computes the present one.

Source: PyTorch's notes on CUDA semantics (streams, ``record_stream``, pinned memory). Other devices copy in their turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

import torch

Batch = TypeVar("Batch")


class SideStream(Protocol):
    """Where copies are put that the device does beside its other work."""

    def issuing(self) -> AbstractContextManager[object]:
        """What is asked of the device inside goes to this stream."""

    def hand_over(self, batch: object) -> None:
        """The device's other work waits for what was issued so far, and may use these tensors from then on."""


class CudaStream:
    """See ``SideStream``."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)

    def issuing(self) -> AbstractContextManager[object]:
        return torch.cuda.stream(self._stream)

    def hand_over(self, batch: object) -> None:
        current = torch.cuda.current_stream(self._stream.device)
        current.wait_stream(self._stream)
        for tensor in tensors_in(batch):
            # Otherwise the side stream could reuse their memory as soon as Python lets go of them, while the network
            # is still to read them.
            tensor.record_stream(current)


def side_stream(device: torch.device) -> SideStream | None:
    """None for devices on which copies take their turn."""
    return CudaStream(device) if device.type == "cuda" else None


def one_ahead(batches: Iterator[Batch], stream: SideStream | None) -> Iterator[Batch]:
    """The same batches; each is issued to ``stream`` while the caller still works with the one before."""
    if stream is None:
        yield from batches
        return

    def issue() -> list[Batch]:
        with stream.issuing():
            return [batch for _, batch in zip(range(1), batches, strict=False)]

    following = issue()
    while following:
        (batch,) = following
        stream.hand_over(batch)
        following = issue()
        yield batch


def tensors_in(batch: object) -> Iterator[torch.Tensor]:
    """Every tensor in nested lists and tuples, wherever it lies."""
    if isinstance(batch, torch.Tensor):
        yield batch
    elif isinstance(batch, list | tuple):
        for part in batch:
            yield from tensors_in(part)


def to_device(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy that the CPU does not wait for: from pinned memory, or for CUDA it would wait for all work before it."""
    if device.type != "cuda":
        return values.to(device)
    pinned = values if values.is_pinned() else values.pin_memory()
    return pinned.to(device, non_blocking=True)
