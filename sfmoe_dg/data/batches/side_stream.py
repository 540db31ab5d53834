"""Copy the next batch to a CUDA device while the device computes the current one.

Source: PyTorch's notes on CUDA semantics (streams, ``record_stream``, pinned memory). On other devices, copies are not
concurrent with other work.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

import torch

Batch = TypeVar("Batch")


class SideStream(Protocol):
    """A queue of copies that the device does while it does other work."""

    def issuing(self) -> AbstractContextManager[object]:
        """Inside the block, work for the device is issued to this stream."""

    def hand_over(self, batch: object) -> None:
        """Make the device's other work wait for what this stream was given so far; it may then use these tensors."""


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
            # Otherwise the side stream could reuse their memory as soon as Python frees them, before the network
            # has read them.
            tensor.record_stream(current)


def side_stream(device: torch.device) -> SideStream | None:
    """None for devices that cannot copy beside other work."""
    return CudaStream(device) if device.type == "cuda" else None


def one_ahead(batches: Iterator[Batch], stream: SideStream | None) -> Iterator[Batch]:
    """Yield the same batches; each is issued to ``stream`` while the caller still works with the one before."""
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
    """All tensors in nested lists and tuples."""
    if isinstance(batch, torch.Tensor):
        yield batch
    elif isinstance(batch, list | tuple):
        for part in batch:
            yield from tensors_in(part)


def to_device(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy without making the CPU wait. For CUDA that needs pinned memory: otherwise it waits for all earlier work."""
    if device.type != "cuda":
        return values.to(device)
    pinned = values if values.is_pinned() else values.pin_memory()
    return pinned.to(device, non_blocking=True)
