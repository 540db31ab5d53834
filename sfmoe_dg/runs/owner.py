"""The identity of a process that works in a folder. Processes on any machine can tell from it whether it is alive."""

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
    """The process runs on another machine: only its heartbeat can show whether it is alive."""


@dataclass(frozen=True)
class Owner:
    """The process that holds a lease.

    ``machine`` and ``birth`` tell its process number from equal numbers of other machines and of earlier processes;
    ``token`` is random and unique. ``started`` is in seconds since the epoch by that machine's clock; it is shown to
    users and never compared.
    """

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
    """The identity of this process, with a new token at every call."""
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
    """A name for this boot and process namespace. Two processes with equal names see each other's process numbers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _birth(pid: int) -> str:
    """The start time of a process in the kernel's ticks, which tells it from a later process with the same number.

    '' if the time is not available; 'dead' for a zombie, a process that has ended and that its parent has not reaped.
    """
    try:
        state, *values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return ""
    return "dead" if state in "ZX" else values[18]


def liveness(owner: Owner, queue: SlurmQueue | None = None) -> Liveness:
    """Whether an owner is alive, as far as this machine's processes and Slurm's queue show."""
    if owner.machine == _machine():
        return Liveness.ALIVE if _process_lives(owner) else Liveness.DEAD
    if not owner.slurm_job:
        return Liveness.UNKNOWN
    if owner.slurm_job == this_job():
        # This job was requeued and ran on that machine before. Slurm never runs a job twice at a time.
        return Liveness.DEAD
    state = (queue or SlurmQueue()).state(owner.slurm_job)
    return Liveness.UNKNOWN if state is None or state in ALIVE_STATES else Liveness.DEAD


def _process_lives(owner: Owner) -> bool:
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # The process exists and belongs to another user.
    birth = _birth(owner.pid)
    return birth != "dead" and birth in (owner.birth, "")


def read_owner(path: Path) -> Owner | None:
    """The owner named in a lease file; None while the file is being written or after it was deleted."""
    try:
        values = json.loads(path.read_bytes())
        return Owner(**{f.name: values[f.name] for f in fields(Owner)})
    except (OSError, ValueError, KeyError, TypeError):
        return None
