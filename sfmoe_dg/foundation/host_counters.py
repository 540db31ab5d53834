"""Buffers that are looked at by the program, not by the network, kept where looking at them is free."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn


class HostBuffers(nn.Module):
    """A module some of whose buffers stay on the CPU wherever the rest goes.

    Counters decide what an update does next; on the device, every such decision would wait until all work before it
    is done. States have the same keys and values as if they had been moved.
    """

    on_host: ClassVar[tuple[str, ...]] = ()
    """Names of the module's own buffers that stay; those that it does not have count for nothing."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        kept = {name: buffer for name, buffer in self._buffers.items() if name in self.on_host}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._buffers.update(kept)
        return self
