"""Which device a process computes on."""

from __future__ import annotations

import torch

from sfmoe_dg.foundation.errors import UserError


def pick_device(name: str) -> torch.device:
    """The device of this name; 'auto' takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        UserError: for a device that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps"):
            raise NotImplementedError
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(
            f"device {name} is not available here; allowed: auto, cpu, cuda, cuda:N, mps", "device"
        ) from None
    return device
