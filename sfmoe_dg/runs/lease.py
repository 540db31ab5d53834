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
"""Seconds without a heartbeat after which an owner on another machine counts as dead: more than the 60 for which NFS
may remember attributes."""

LEASE_NAME = re.compile(r"lease\.([1-9]\d*)\.json")


class Owned(UserError):
    """The folder belongs to another process that is alive."""

    def __init__(self, folder: Path, owner: Owner | None) -> None:
        super().__init__(f"{folder} is being trained by {owner or 'another process'}; its lease is alive")
        self.owner = owner


class LeaseLost(UserError):
    """Another process took the folder over, because this one showed no sign of life."""


def current_lease(folder: Path, names: Iterable[str] | None = None) -> Path | None:
    """The lease file that holds in a folder, or None. ``names`` are those of what lies there, if they are known."""
    highest = max(names_in(folder) if names is None else names, key=_number, default="")
    return folder / highest if _number(highest) else None


def current_owner(folder: Path) -> Owner | None:
    """Who wrote the lease that holds in a folder, whether alive or not; None without one."""
    lease = current_lease(folder)
    return None if lease is None else read_owner(lease)


def _number(name: str) -> int:
    """The number of a lease file's name; 0 for another file's."""
    match = LEASE_NAME.fullmatch(name)
    return int(match[1]) if match else 0


def is_owned(lease: Path | None, queue: SlurmQueue | None = None) -> bool:
    """Whether a folder's :func:`current_lease` belongs to an owner who lives, or may live."""
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
        return bool(token == self.owner.token) and current_lease(self.path.parent) == self.path

    def check(self) -> None:
        """Call before every write into the folder.

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
        """Give the folder back; harmless if it is no longer this process's."""
        self._stop.set()
        self._thread.join()
        holder = read_owner(self.path)
        if holder is not None and holder.token == self.owner.token:
            self.path.unlink(missing_ok=True)


def refuse_living_owner(folder: Path) -> None:
    """Look, without waiting or writing, whether a folder is certainly held; :func:`acquire` decides for good.

    Raises:
        Owned: if it is.
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
        held = current_lease(folder)
        if held is not None:
            _wait_for_death(held, patience, on_wait)
        owner = this_process()
        number = 1 if held is None else _number(held.name) + 1
        path = folder / f"lease.{number}.json"
        if not _create(path, owner):
            continue
        if current_lease(folder) != path:
            # Others took over twice while this process slept between looking and creating.
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
