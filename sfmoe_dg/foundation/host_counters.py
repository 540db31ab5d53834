"""Counters kept on the CPU, so that reading them never waits for the GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn


class HostBuffers(nn.Module):
    """A module that keeps some of its buffers on the CPU when it is moved to a device.

    Counters decide what an update does next. On the device, reading one would wait for all work queued before it.
    The state dict has the same keys and values as if the buffers had been moved.
    """

    on_host: ClassVar[tuple[str, ...]] = ()
    """Names of the module's own buffers that stay on the CPU; names of buffers that it lacks are ignored."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        kept = {name: buffer for name, buffer in self._buffers.items() if name in self.on_host}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._buffers.update(kept)
        return self
