"""The sweeps that work in a folder. Each keeps a file ``launch/sweep-<token>.json`` there while it works.

``sfmoe-dg cancel`` ends these sweeps first. Otherwise they would start the canceled runs again.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from sfmoe_dg.foundation.files import make_folder, write_atomic
from sfmoe_dg.runs.owner import Liveness, Owner, liveness, read_owner, this_process
from sfmoe_dg.sweeps.launch.slurm.jobs import FOLDER


@contextlib.contextmanager
def registered(output_dir: Path) -> Iterator[None]:
    """Register this process as a sweep of the folder until the block ends. Entries of dead processes are deleted."""
    folder = make_folder(output_dir / FOLDER)
    for path, owner in _registered_in(output_dir):
        if liveness(owner) is Liveness.DEAD:
            path.unlink(missing_ok=True)
    here = this_process()
    path = folder / f"sweep-{here.token}.json"
    write_atomic(path, json.dumps(asdict(here)) + "\n")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def sweeps_of(output_dir: Path) -> list[Owner]:
    """The processes that work in a folder, without those that are known to be dead."""
    return [owner for _, owner in _registered_in(output_dir) if liveness(owner) is not Liveness.DEAD]


def _registered_in(output_dir: Path) -> Iterator[tuple[Path, Owner]]:
    for path in sorted((output_dir / FOLDER).glob("sweep-*.json")):
        owner = read_owner(path)
        if owner is not None:
            yield path, owner
