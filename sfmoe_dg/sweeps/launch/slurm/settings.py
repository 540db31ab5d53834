"""The keys of a study's ``[launch]`` table that only the launcher slurm reads."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from sfmoe_dg.foundation.checked import TEXT, is_text, value
from sfmoe_dg.sweeps.launch.settings import LaunchSettings

DURATION = re.compile(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)")
MEMORY = re.compile(r"[1-9]\d*[KMGT]")


def _is_duration(time: str | int) -> bool:
    if isinstance(time, int):
        return time >= 1
    match = DURATION.fullmatch(time)
    return match is not None and any(int(part or 0) for part in match.groups())


@dataclass(frozen=True)
class SlurmSettings(LaunchSettings):
    """The resources that a task requests from Slurm, and how tasks are submitted."""

    runs_per_task: int = value(1, low=1, help="runs per task")
    partition: str | None = value(None, metavar="NAME", shape=TEXT, help="Slurm's partition")
    account: str | None = value(None, metavar="NAME", shape=TEXT, help="Slurm's account")
    qos: str | None = value(None, metavar="NAME", shape=TEXT, help="Slurm's qos")
    constraint: str | None = value(None, metavar="FEATURES", shape=TEXT, help="Slurm's constraint")
    time: str | int = value(
        240,
        metavar="LIMIT",
        help="time limit of a task: minutes, or [days-]hours:minutes:seconds; it is requeued until its runs are done",
        shape=(_is_duration, 'minutes, or "[days-]hours:minutes:seconds" such as "12:00:00"'),
    )
    cpus: int | None = value(None, low=1, help="CPUs per task")
    memory: str | None = value(
        None,
        metavar="SIZE",
        help="memory per task, such as 16G",
        shape=(
            lambda size: MEMORY.fullmatch(size) is not None,
            'a number with K, M, G or T behind it, such as "16G"',
        ),
    )
    array_parallelism: int | None = value(
        None, low=1, help="maximum number of tasks at a time; default: no limit but the cluster's"
    )
    save_seconds: int = value(120, low=1, help="seconds before the time limit at which runs save")
    setup: tuple[str, ...] = value(
        (),
        metavar="LINE",
        help="shell line before every task, such as module load cuda",
        shape=(lambda lines: True, "a list of shell lines"),
    )
    sbatch: Mapping[str, str] = value(
        default_factory=dict,
        metavar="NAME=VALUE",
        help="another option of sbatch: its long name without dashes",
        shape=(
            lambda table: all(is_text(text) for pair in table.items() for text in pair),
            "a table of sbatch's options, all of them strings",
        ),
    )
    wait: bool = value(False, help="stay until all runs are done, submit lost runs again, then print tables")
    poll: int = value(30, low=1, help="seconds between two looks at the queue, for wait")

    @property
    def minutes(self) -> int:
        """The time limit in whole minutes, as Slurm counts."""
        if isinstance(self.time, int):
            return self.time
        match = DURATION.fullmatch(self.time)
        assert match is not None
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return math.ceil((days * 24 * 60 + hours * 60 + minutes) + seconds / 60)
