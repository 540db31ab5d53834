"""Who owns a folder: a lease with a heartbeat, so that no two processes ever train the same run.

A lease is a file ``lease.<n>.json`` that only one process can create (``O_EXCL``); the highest ``n`` holds. Its owner
touches it every :data:`HEARTBEAT` seconds. Whoever finds a dead owner's lease creates the next one, and the old owner,
should it only have slept, finds at its next beat that it has lost.

No clock is ever compared with another: an owner on this machine is alive if its process is, one under Slurm if its job
runs, and one elsewhere as long as its heartbeat moves while *this* process watches, :data:`PATIENCE` seconds at most.
The folder may lie on any shared file system on which exclusive creation works (NFS 3 and later, Lustre, GPFS).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from enum import Enum
from pathlib import Path

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.files import named_errors
from sfmoe_dg.foundation.slurm import ALIVE_STATES, SlurmQueue, this_job

HEARTBEAT = 20.0
PATIENCE = 120.0
"""Seconds without a heartbeat after which an owner on another machine counts as dead: more than the 60 for which NFS
may remember attributes."""

LEASE_NAME = re.compile(r"lease\.([1-9]\d*)\.json")


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


class Owned(UserError):
    """The folder belongs to another process that is alive."""

    def __init__(self, folder: Path, owner: Owner | None) -> None:
        super().__init__(f"{folder} is being trained by {owner or 'another process'}; its lease is alive")
        self.owner = owner


class LeaseLost(UserError):
    """Another process took the folder over, because this one showed no sign of life."""


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


def current(folder: Path, names: Iterable[str] | None = None) -> Path | None:
    """The lease file that holds in a folder, or None. ``names`` are the folder's entries, if they are known."""
    highest = max(entries(folder) if names is None else names, key=_number, default="")
    return folder / highest if _number(highest) else None


def entries(folder: Path) -> set[str]:
    """The names of what lies in a folder; none if there is no such folder, or no longer."""
    try:
        return set(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return set()


def _number(name: str) -> int:
    """The number of a lease file's name; 0 for another file's."""
    match = LEASE_NAME.fullmatch(name)
    return int(match[1]) if match else 0


def read_owner(path: Path) -> Owner | None:
    """Who wrote a lease; None while it is being written, and after it has gone."""
    try:
        values = json.loads(path.read_bytes())
        return Owner(**{f.name: values[f.name] for f in fields(Owner)})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_owned(lease: Path | None, queue: SlurmQueue | None = None) -> bool:
    """Whether a folder's :func:`current` lease belongs to an owner who lives, or may live."""
    if lease is None:
        return False
    owner = read_owner(lease)
    return lease.exists() if owner is None else liveness(owner, queue) is not Liveness.DEAD


class Watch:
    """Tells whether a heartbeat has stopped, by this process's clock alone."""

    def __init__(self, patience: float = PATIENCE, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience, self._clock = patience, clock
        self._seen: dict[Path, tuple[tuple[int, int], float]] = {}

    def has_stopped(self, lease: Path) -> bool:
        """Whether the lease has been watched for the whole patience without a beat."""
        try:
            # Opening makes NFS ask the server instead of its cache.
            with lease.open("rb") as file:
                status = os.fstat(file.fileno())
        except FileNotFoundError:
            return True
        sign = (status.st_ino, status.st_mtime_ns)
        last, since = self._seen.get(lease, (None, 0.0))
        if last != sign:
            self._seen[lease] = (sign, self._clock())
            return False
        return self._clock() - since > self._patience


class Lease:
    """A folder held by this process until :meth:`release`; a thread of its own keeps the heartbeat going."""

    def __init__(self, path: Path, owner: Owner, heartbeat: float) -> None:
        self.path, self.owner = path, owner
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, args=(heartbeat,), name="lease", daemon=True)
        self._thread.start()

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def _beat(self, heartbeat: float) -> None:
        while not self._stop.wait(heartbeat):
            # A file server that does not answer for a while must not end the heart: the next beat tries again.
            with contextlib.suppress(OSError):
                if not self.holds():
                    return
                os.utime(self.path)

    def holds(self) -> bool:
        """Whether the folder is still this process's.

        Raises:
            OSError: if the file server does not answer, so that this cannot be known.
        """
        try:
            token = json.loads(self.path.read_bytes())["token"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return False
        return bool(token == self.owner.token) and current(self.path.parent) == self.path

    def check(self) -> None:
        """Call before every write into the folder.

        Raises:
            LeaseLost: if another process has taken it over.
            OSError: if the file server does not answer.
        """
        if not self.holds():
            other = read_owner(current(self.path.parent) or self.path) or "another process"
            raise LeaseLost(
                f"{self.path.parent} was taken over by {other}, "
                "because this process gave no sign of life; it leaves the run to the other"
            )

    def release(self) -> None:
        """Give the folder back; harmless if it is no longer this process's."""
        self._stop.set()
        self._thread.join()
        found = read_owner(self.path)
        if found is not None and found.token == self.owner.token:
            self.path.unlink(missing_ok=True)


def refuse_living_owner(folder: Path) -> None:
    """Look, without waiting or writing, whether a folder is certainly held; :func:`acquire` decides for good.

    Raises:
        Owned: if it is.
    """
    held = current(folder)
    owner = read_owner(held) if held is not None else None
    if owner is not None and liveness(owner) is Liveness.ALIVE:
        raise Owned(folder, owner)


def acquire(
    folder: Path,
    *,
    heartbeat: float = HEARTBEAT,
    patience: float = PATIENCE,
    on_wait: Callable[[Owner | None, float], None] | None = None,
) -> Lease:
    """Take a folder, which is made if need be; a dead owner's lease is taken over.

    Where only the heartbeat can tell whether an owner lives, this watches it for up to ``patience`` seconds, after
    telling ``on_wait`` whom and how long. Afterwards look again whether the work is not done already.

    Raises:
        Owned: if the owner lives.
        OSError: if the folder cannot be written.
    """
    while True:
        # Again every time: another process may just have deleted the folder (``sfmoe-dg delete-incomplete``).
        folder.mkdir(parents=True, exist_ok=True)
        held = current(folder)
        if held is not None:
            _wait_for_death(held, patience, on_wait)
        owner = this_process()
        number = 1 if held is None else _number(held.name) + 1
        path = folder / f"lease.{number}.json"
        if not _create(path, owner):
            continue
        if current(folder) != path:
            # Others took over twice while this process slept between looking and creating.
            path.unlink(missing_ok=True)
            continue
        for name in os.listdir(folder):
            if 0 < _number(name) < number:
                (folder / name).unlink(missing_ok=True)
        return Lease(path, owner, heartbeat)


def _create(path: Path, owner: Owner) -> bool:
    try:
        with named_errors(path), path.open("x") as file:
            try:
                file.write(json.dumps(asdict(owner)) + "\n")
                file.flush()
            except OSError:
                path.unlink(missing_ok=True)
                raise
    except FileExistsError:
        return False
    except FileNotFoundError:
        if path.parent.is_dir():  # one in which nothing can be made (/proc), not one that was just deleted
            raise
        return False
    return True


def _wait_for_death(lease: Path, patience: float, on_wait: Callable[[Owner | None, float], None] | None) -> None:
    """Return once the owner is known to be dead.

    Raises:
        Owned: once it is known to live.
    """
    watch, queue, before, told = Watch(patience), SlurmQueue(), _mtime(lease), False
    while not watch.has_stopped(lease):
        owner = read_owner(lease)
        # Read again every time: it may just have been written.
        state = Liveness.UNKNOWN if owner is None else liveness(owner, queue)
        if state is Liveness.DEAD:
            return
        if state is Liveness.ALIVE or (owner is not None and _mtime(lease) not in (before, None)):
            raise Owned(lease.parent, owner)
        if owner is not None and not told and on_wait is not None:
            on_wait(owner, patience)
            told = True
        time.sleep(min(1.0, patience / 10))


def _mtime(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None
