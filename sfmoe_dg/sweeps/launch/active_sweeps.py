"""Which sweeps work in a folder: a file ``launch/sweep-<token>.json`` each, so that one can be told to end.

A sweep that starts runs, or submits what was lost again, would undo what ``sfmoe-dg cancel`` does.
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
    """Note that this process works in a folder, until the block ends; what dead ones left is removed."""
    folder = make_folder(output_dir / FOLDER)
    for path, owner in _noted(output_dir):
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
    return [owner for _, owner in _noted(output_dir) if liveness(owner) is not Liveness.DEAD]


def _noted(output_dir: Path) -> Iterator[tuple[Path, Owner]]:
    for path in sorted((output_dir / FOLDER).glob("sweep-*.json")):
        owner = read_owner(path)
        if owner is not None:
            yield path, owner
