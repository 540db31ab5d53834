"""Who owns a folder: a lease with a heartbeat, so that no two processes ever train the same run.

A lease is a file ``lease.<n>.json`` that only one process can create (``O_EXCL``). The lease with the highest ``n`` is
valid. Its owner touches the file every :data:`HEARTBEAT` seconds. A process that sees a dead owner's lease creates the
next one. If the old owner was only suspended, it notices at its next heartbeat that its lease is no longer valid.

Clocks of two machines are never compared. An owner on this machine is alive if its process is alive. An owner under
Slurm is alive if its job runs. Any other owner is alive if its heartbeat changes while *this* process watches, for at
most :data:`PATIENCE` seconds. The folder may lie on any shared file system that supports exclusive creation (NFS 3 and
later, Lustre, GPFS).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.files import named_errors, names_in
from sfmoe_dg.foundation.slurm import SlurmQueue
from sfmoe_dg.runs.owner import Liveness, Owner, liveness, read_owner, this_process

HEARTBEAT = 20.0
PATIENCE = 120.0
"""Seconds without a heartbeat after which an owner on another machine counts as dead. NFS may cache a file's times for
60 seconds, so this must be longer."""

LEASE_NAME = re.compile(r"lease\.([1-9]\d*)\.json")


class Owned(UserError):
    """Another process, which is alive, holds the folder's lease."""

    def __init__(self, folder: Path, owner: Owner | None) -> None:
        super().__init__(f"{folder} is being trained by {owner or 'another process'}; its lease is alive")
        self.owner = owner


class LeaseLost(UserError):
    """Another process took the folder over, because this process's heartbeat had stopped."""


def current_lease(folder: Path, names: Iterable[str] | None = None) -> Path | None:
    """The folder's valid lease file, or None. ``names``: the names of the folder's files, if the caller has them."""
    highest = max(names_in(folder) if names is None else names, key=_number, default="")
    return folder / highest if _number(highest) else None


def current_owner(folder: Path) -> Owner | None:
    """The process that wrote the folder's valid lease, alive or dead; None without a lease."""
    lease = current_lease(folder)
    return None if lease is None else read_owner(lease)


def _number(name: str) -> int:
    """The number in the name of a lease file; 0 for any other file."""
    match = LEASE_NAME.fullmatch(name)
    return int(match[1]) if match else 0


def is_owned(lease: Path | None, queue: SlurmQueue | None = None) -> bool:
    """Whether the owner of a folder's :func:`current_lease` is alive, or may be alive."""
    if lease is None:
        return False
    owner = read_owner(lease)
    # A lease without readable content is being written right now: its owner is alive.
    return lease.exists() if owner is None else liveness(owner, queue) is not Liveness.DEAD


class Watch:
    """Observes heartbeats with this process's clock and reports which have stopped."""

    def __init__(self, patience: float = PATIENCE, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience, self._clock = patience, clock
        self._seen: dict[Path, tuple[tuple[int, int], float]] = {}

    def has_stopped(self, lease: Path) -> bool:
        """Whether the lease has been observed for longer than ``patience`` seconds without a heartbeat."""
        try:
            # Opening the file makes NFS fetch its times from the server instead of the cache.
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
    """This process's hold on a folder, until :meth:`release`. A separate thread sends the heartbeat."""

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
            # A file server that is unreachable for a while must not end this thread: the next beat tries again.
            with contextlib.suppress(OSError):
                if not self.holds():
                    return
                os.utime(self.path)

    def holds(self) -> bool:
        """Whether this process still holds the folder.

        Raises:
            OSError: if the file server does not answer.
        """
        try:
            token = json.loads(self.path.read_bytes())["token"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return False
        return bool(token == self.owner.token) and current_lease(self.path.parent) == self.path

    def check(self) -> None:
        """Ensure that this process still holds the folder. Call this before every write into it.

        Raises:
            LeaseLost: if another process has taken it over.
            OSError: if the file server does not answer.
        """
        if not self.holds():
            other = read_owner(current_lease(self.path.parent) or self.path) or "another process"
            raise LeaseLost(
                f"{self.path.parent} was taken over by {other}, "
                "because this process gave no sign of life; it leaves the run to the other"
            )

    def release(self) -> None:
        """Give the folder back. Nothing happens if another process holds it by now."""
        self._stop.set()
        self._thread.join()
        holder = read_owner(self.path)
        if holder is not None and holder.token == self.owner.token:
            self.path.unlink(missing_ok=True)


def refuse_living_owner(folder: Path) -> None:
    """Fail early if the folder's owner is certainly alive. Other cases are left to :func:`acquire`, which may wait.

    Raises:
        Owned: if the owner is certainly alive.
    """
    owner = current_owner(folder)
    if owner is not None and liveness(owner) is Liveness.ALIVE:
        raise Owned(folder, owner)


def acquire(
    folder: Path,
    *,
    heartbeat: float = HEARTBEAT,
    patience: float = PATIENCE,
    on_wait: Callable[[Owner | None, float], None] | None = None,
) -> Lease:
    """Take the lease of a folder and create the folder if it is missing. A dead owner's lease is replaced.

    If only the heartbeat can show whether the owner is alive, this calls ``on_wait(owner, patience)`` once and watches
    the heartbeat for up to ``patience`` seconds. The other process may finish the work meanwhile, so the caller must
    check afterwards whether there is still work to do.

    Raises:
        Owned: if the owner is alive.
        OSError: if the folder cannot be written.
    """
    while True:
        # In every round: another process may have deleted the folder meanwhile (``sfmoe-dg delete-incomplete``).
        folder.mkdir(parents=True, exist_ok=True)
        held = current_lease(folder)
        if held is not None:
            _wait_for_death(held, patience, on_wait)
        owner = this_process()
        number = 1 if held is None else _number(held.name) + 1
        path = folder / f"lease.{number}.json"
        if not _create(path, owner):
            continue
        if current_lease(folder) != path:
            # Two other processes took the folder over between the look above and the creation: try again.
            path.unlink(missing_ok=True)
            continue
        for name in names_in(folder):
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
        if path.parent.is_dir():  # The folder exists and takes no files (/proc). A deleted one is made again.
            raise
        return False
    return True


def _wait_for_death(lease: Path, patience: float, on_wait: Callable[[Owner | None, float], None] | None) -> None:
    """Return as soon as the owner is known to be dead.

    Raises:
        Owned: as soon as the owner is known to be alive.
    """
    watch, queue, before, announced = Watch(patience), SlurmQueue(), _mtime(lease), False
    while not watch.has_stopped(lease):
        owner = read_owner(lease)
        # In every round: the owner may have been writing the file during the last one.
        state = Liveness.UNKNOWN if owner is None else liveness(owner, queue)
        if state is Liveness.DEAD:
            return
        if state is Liveness.ALIVE or (owner is not None and _mtime(lease) not in (before, None)):
            raise Owned(lease.parent, owner)
        if owner is not None and not announced and on_wait is not None:
            on_wait(owner, patience)
            announced = True
        time.sleep(min(1.0, patience / 10))


def _mtime(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None
