"""Mixed precision of an update: autocast, and the scaled gradients that float16 needs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


class Precision:
    """Autocast to bfloat16 or float16, with a gradient scaler for float16; 'fp32' does nothing."""

    def __init__(self, name: str = "fp32", device_type: str = "cpu") -> None:
        self.dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
        self.device_type = device_type
        self.scaler = torch.amp.GradScaler(device_type, enabled=name == "fp16")

    def state_dict(self) -> dict[str, Any]:
        """The scaler's state, the only thing that training changes."""
        return self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scaler.load_state_dict(state)

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which updates and predictions run.

        The cache of half-precision weights is off. It would last for a whole update, and an objective that steps and
        then runs the network again (Fish, MLDG, SAM) would still use the old weights.
        """
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device_type, dtype=self.dtype, cache_enabled=False)
