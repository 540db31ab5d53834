"""What the updates since the last record returned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from sfmoe_dg.algorithms.base import Scalar, Values


class Seen:
    """Numbers by name. Those that an update left on its device stay there until the numbers are asked for.

    Reading one is waiting for the device; meanwhile the next step is not prepared. All that wait are read together.
    """

    def __init__(self, values: Mapping[str, Iterable[float]] | None = None) -> None:
        self._values: dict[str, list[Scalar]] = {name: list(given) for name, given in (values or {}).items()}

    def add(self, values: Values) -> None:
        for name, value in values.items():
            self._values.setdefault(name, []).append(value.detach() if isinstance(value, Tensor) else value)

    def numbers(self) -> dict[str, list[float]]:
        """All of them, read; later calls read only what came since."""
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
        """The mean of every name's numbers, in float64."""
        return {name: float(np.mean(values)) for name, values in self.numbers().items()}

    def clear(self) -> None:
        self._values.clear()
