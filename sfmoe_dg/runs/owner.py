"""A process that works in a folder, written down so that others can tell whether it lives, on whatever machine."""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path

from sfmoe_dg.foundation.slurm import ALIVE_STATES, SlurmQueue, this_job


class Liveness(Enum):
    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"
    """On another machine: only its heartbeat can tell."""


@dataclass(frozen=True)
class Owner:
    """The process that holds a lease. ``started`` is seconds since the epoch by its own clock, only ever shown."""

    host: str
    machine: str
    pid: int
    birth: str
    slurm_job: str
    started: float
    token: str

    def __str__(self) -> str:
        job = f", Slurm job {self.slurm_job.partition('@')[0]}" if self.slurm_job else ""
        return f"process {self.pid} on {self.host}{job}"


def this_process() -> Owner:
    """The owner that this process would be."""
    return Owner(
        host=socket.gethostname(),
        machine=_machine(),
        pid=os.getpid(),
        birth=_birth(os.getpid()),
        slurm_job=this_job(),
        started=time.time(),
        token=secrets.token_hex(8),
    )


def _machine() -> str:
    """What two processes share only if each can see the other's process number: one boot, one set of processes."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _birth(pid: int) -> str:
    """When a process began, in the kernel's ticks: tells it from a later one with the same number.

    '' where this cannot be known, and 'dead' for one that has ended and only waits for its parent to notice.
    """
    try:
        state, *values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return ""
    return "dead" if state in "ZX" else values[18]


def liveness(owner: Owner, queue: SlurmQueue | None = None) -> Liveness:
    """Whether an owner lives, as far as this machine or Slurm's queue can tell at once."""
    if owner.machine == _machine():
        return Liveness.ALIVE if _process_lives(owner) else Liveness.DEAD
    if not owner.slurm_job:
        return Liveness.UNKNOWN
    if owner.slurm_job == this_job():
        # The same job on another machine before it was requeued: Slurm never runs both at once.
        return Liveness.DEAD
    state = (queue or SlurmQueue()).state(owner.slurm_job)
    return Liveness.UNKNOWN if state is None or state in ALIVE_STATES else Liveness.DEAD


def _process_lives(owner: Owner) -> bool:
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    birth = _birth(owner.pid)
    return birth != "dead" and birth in (owner.birth, "")


def read_owner(path: Path) -> Owner | None:
    """Who wrote a lease; None while it is being written, and after it has gone."""
    try:
        values = json.loads(path.read_bytes())
        return Owner(**{f.name: values[f.name] for f in fields(Owner)})
    except (OSError, ValueError, KeyError, TypeError):
        return None
