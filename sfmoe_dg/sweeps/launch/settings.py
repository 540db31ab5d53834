"""The ``[launch]`` table of a study: how its runs are executed, which changes no record."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.registry import unknown

DURATION = re.compile(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)")
DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
MEMORY = re.compile(r"[1-9]\d*[KMGT]")


@dataclass(frozen=True)
class LaunchSettings:
    """What launchers are told. A launcher leaves alone what is not its business."""

    jobs: int = 1
    threads: int | None = None
    """CPU threads per run; None divides the machine's or the task's cores among the runs side by side."""
    device: str = "auto"
    num_workers: int | None = None
    cache_dir: str | None = None
    """For images = "cached": where decoded images are kept; None: as ``sfmoe-dg train`` chooses."""

    log: tuple[str, ...] = ()
    """Where else records are shown: names of ``sfmoe_dg.loggers``."""
    confirm_above_hours: float = 24
    """A sweep whose runs cost more hours one after another, as far as that was measured, is asked about."""

    gpus: int | None = None
    """Slurm: GPUs of one task. Local: GPUs to use. Every run gets one of them."""
    parallel_per_gpu: int = 1
    """Runs side by side on one GPU; without ``gpus``, runs side by side in one task."""

    runs_per_task: int = 1
    """Runs that one array task works through."""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    time: str | int = 240
    """Time limit of one task: minutes, or "[days-]hours:minutes:seconds"."""
    cpus: int | None = None
    memory: str | None = None
    array_parallelism: int | None = None
    """Tasks of the sweep that may run at the same time; None: as many as the cluster grants."""
    save_seconds: int = 120
    """How long before the time limit runs are told to save."""
    setup: tuple[str, ...] = ()
    """Shell lines before every task, such as "module load cuda"."""
    sbatch: Mapping[str, str] = field(default_factory=dict)
    """Further options of sbatch, by their long names without the dashes."""
    wait: bool = False
    """Stay, submit lost tasks again, and print the tables at the end."""
    poll: int = 30
    """Seconds between two looks at the queue, with ``wait``."""

    @property
    def minutes(self) -> int:
        """The time limit in whole minutes, as Slurm counts."""
        if isinstance(self.time, int):
            return self.time
        match = DURATION.fullmatch(self.time)
        assert match is not None
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return math.ceil((days * 24 * 60 + hours * 60 + minutes) + seconds / 60)

    @property
    def side_by_side(self) -> int:
        """Runs at the same time in one task."""
        return (self.gpus or 1) * self.parallel_per_gpu


def _text(value: Any) -> bool:
    return isinstance(value, str) and value != "" and value.isprintable()


def _count(value: Any) -> bool:
    return type(value) is int and value >= 1


def _duration(value: Any) -> bool:
    if isinstance(value, str):
        match = DURATION.fullmatch(value)
        return match is not None and any(int(part or 0) for part in match.groups())
    return _count(value)


def _lines(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(line, str) for line in value)


def _names(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(_text(name) for name in value)


def _hours(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf


def _table(value: Any) -> bool:
    return isinstance(value, Mapping) and all(_text(text) for pair in value.items() for text in pair)


Check = tuple[Callable[[Any], bool], str]
_COUNT: Check = (_count, "a whole number of at least 1")
_TEXT: Check = (_text, "a string that is not empty")
_CHECKS: dict[str, Check] = {
    "jobs": _COUNT,
    "threads": _COUNT,
    "device": (
        lambda value: isinstance(value, str) and DEVICE.fullmatch(value) is not None,
        "auto, cpu, cuda, cuda:N or mps",
    ),
    "num_workers": (lambda value: type(value) is int and value >= 0, "a whole number of at least 0"),
    "cache_dir": _TEXT,
    "log": (_names, 'a list of names, such as ["tensorboard"]'),
    "confirm_above_hours": (_hours, "a number of hours of at least 0"),
    "gpus": _COUNT,
    "parallel_per_gpu": _COUNT,
    "runs_per_task": _COUNT,
    "partition": _TEXT,
    "account": _TEXT,
    "qos": _TEXT,
    "constraint": _TEXT,
    "time": (_duration, 'minutes, or "[days-]hours:minutes:seconds" such as "12:00:00"'),
    "cpus": _COUNT,
    "memory": (
        lambda value: isinstance(value, str) and MEMORY.fullmatch(value) is not None,
        'a number with K, M, G or T behind it, such as "16G"',
    ),
    "array_parallelism": _COUNT,
    "save_seconds": _COUNT,
    "setup": (_lines, "a list of shell lines"),
    "sbatch": (_table, "a table of sbatch's options, all of them strings"),
    "wait": (lambda value: isinstance(value, bool), "true or false"),
    "poll": _COUNT,
}


def make_launch(values: Mapping[str, Any], where: str) -> LaunchSettings:
    """Settings from plain values, as read from TOML or JSON, every key and value checked.

    Raises:
        UserError: naming the key, its value and what is allowed.
    """
    defaults = {f.name: f.default for f in fields(LaunchSettings)}
    given: dict[str, Any] = {}
    for key, value in values.items():
        if key not in _CHECKS:
            raise unknown("key", key, _CHECKS, f" in {where}")
        if value is None and defaults[key] is None:
            continue
        check_value(f"key {key!r} in {where}", key, value)
        given[key] = tuple(value) if key in ("setup", "log") else value
    return LaunchSettings(**given)


def check_value(what: str, key: str, value: Any) -> None:
    """Refuse a value that setting ``key`` cannot have; ``what`` begins the sentence.

    Raises:
        UserError: naming the value and what is allowed.
    """
    is_right, words = _CHECKS[key]
    if is_right(value):
        return
    if words == _COUNT[1] and type(value) is int:
        words = "at least 1"
    raise UserError(f"{what} is {value!r}; it must be {words}")
