"""The values that updates returned since the last record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from sfmoe_dg.algorithms.base import Scalar, Values


class PendingValues:
    """Lists of numbers by name. Tensors stay on their device until :meth:`numbers` is called.

    Reading a tensor makes the CPU wait for the device, and the next step is prepared only afterwards; so all tensors
    are read together, and as rarely as possible.
    """

    def __init__(self, values: Mapping[str, Iterable[float]] | None = None) -> None:
        self._values: dict[str, list[Scalar]] = {name: list(given) for name, given in (values or {}).items()}

    def add(self, values: Values) -> None:
        for name, value in values.items():
            self._values.setdefault(name, []).append(value.detach() if isinstance(value, Tensor) else value)

    def numbers(self) -> dict[str, list[float]]:
        """All values as numbers; a later call reads only the tensors that were added since."""
        waiting: dict[tuple[torch.device, torch.dtype], list[tuple[list[Scalar], int, Tensor]]] = {}
        for values in self._values.values():
            for place, value in enumerate(values):
                if isinstance(value, Tensor):
                    waiting.setdefault((value.device, value.dtype), []).append((values, place, value.reshape(())))
        for group in waiting.values():
            read = torch.stack([value for _, _, value in group]).tolist()
            for (values, place, _), number in zip(group, read, strict=True):
                values[place] = number
        return {name: [float(value) for value in values] for name, values in self._values.items()}

    def means(self) -> dict[str, float]:
        """The mean of the numbers of each name, in float64."""
        return {name: float(np.mean(values)) for name, values in self.numbers().items()}

    def clear(self) -> None:
        self._values.clear()
