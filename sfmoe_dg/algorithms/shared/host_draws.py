"""Random numbers that are drawn on the CPU, as in DomainBed, and then sent to the device."""

from __future__ import annotations

from torch import Tensor


def from_host(drawn: Tensor, like: Tensor) -> Tensor:
    """A tensor drawn on the CPU, sent to the device of ``like`` without waiting for the work queued there.

    CUDA has copied the few bytes when the call returns. Other devices do not guarantee that, so they wait.
    """
    return drawn.to(like.device, non_blocking=like.is_cuda)
