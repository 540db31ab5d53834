"""Options that make the same networks compute faster, with other rounding (``docs/speed.md``)."""

from __future__ import annotations

import torch

from sfmoe_dg.algorithms.base import Algorithm
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.models.featurizer import Featurizer
from sfmoe_dg.runs.spec import Options


def speed_up(algorithm: Algorithm, options: Options, device: torch.device, shared: bool = False) -> None:
    """Apply the options ``memory_format`` and ``compile`` to an algorithm that is on its device.

    Args:
        shared: whether several processes will share its updates.

    Raises:
        UserError: if it cannot be compiled.
    """
    if options.memory_format == "channels_last":
        algorithm.to(memory_format=torch.channels_last)
    if options.compile != "none":
        _check(algorithm, device, shared)
        for module in algorithm.modules():
            if isinstance(module, Featurizer):
                module.compiled = True


def _check(algorithm: Algorithm, device: torch.device, shared: bool) -> None:
    name = type(algorithm).__name__
    if algorithm.cannot_compile:
        raise UserError(f"compile does not go with {name}, which {algorithm.cannot_compile}; leave it out", "compile")
    if not any(isinstance(module, Featurizer) for module in algorithm.modules()):
        raise UserError(
            f"compile has nothing to do in {name}, whose networks are not sfmoe-dg's; leave it out", "compile"
        )
    if shared:
        raise UserError("compile does not go with several processes; leave one of the two out", "compile")
    try:
        torch.compile(_probe)(torch.zeros(2, device=device))
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"compile does not work on this machine ({reason}); leave it out", "compile") from None


def _probe(x: torch.Tensor) -> torch.Tensor:
    return (x + 1).relu()
