"""How a run is executed: what changes no record, and may differ from machine to machine. Needs no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from sfmoe_dg.foundation.checked import TEXT, check, value
from sfmoe_dg.foundation.world import World

PARALLEL_MODES: tuple[str, ...] = ("ddp", "fsdp", "expert")
"""How several processes share an update: each with all weights, with a part of every weight, with some experts."""
DEVICES = "auto, cpu, cuda, cuda:N or mps"
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


@dataclass(frozen=True)
class Resources:
    """What of the machine a run uses. A study's ``[launch]`` table may say it for all of its runs."""

    device: str = value(
        "auto", metavar="NAME", help=DEVICES, shape=(lambda name: _DEVICE.fullmatch(name) is not None, DEVICES)
    )
    num_workers: int | None = value(None, low=0, help="loader processes, shared by all domains")
    cache_dir: str | None = value(
        None,
        metavar="DIR",
        help="for images = cached, where decoded images are kept; default: $SFMOE_DG_CACHE, or ~/.cache/sfmoe_dg",
        shape=TEXT,
    )


@dataclass(frozen=True)
class Execution(Resources):
    """How a run is executed; none of it changes what the records mean.

    Raises:
        UserError: for a value that cannot be, naming its field.

    Examples:
        >>> from sfmoe_dg import Execution
        >>> Execution(device="cpu", num_workers=0).eval_batch_size
        128
    """

    checkpoint_minutes: float = value(
        10,
        low=0,
        metavar="M",
        help="save what is needed to go on at least every M minutes, besides every evaluation; 0: at every step",
    )
    parallel: str = value(
        "ddp",
        choices=PARALLEL_MODES,
        help="how processes started by torchrun share the run; see docs/distributed.md",
    )
    eval_batch_size: int = 128
    world: World = field(default_factory=World)
    """Which of how many processes this one is; those of one run share every minibatch and every evaluation."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Reporting:
    """Where a run's records are shown besides their file."""

    log: tuple[str, ...] = value(
        (),
        metavar="NAME",
        help="also show records there: names of sfmoe-dg list loggers",
        shape=(
            lambda names: all(name and name.isprintable() for name in names),
            'a list of names, such as ["tensorboard"]',
        ),
    )
