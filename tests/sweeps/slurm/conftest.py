"""A Slurm cluster on this machine for the tests in this folder. It is removed when they end."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SYSTEM_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"


@dataclass(frozen=True)
class Cluster:
    """A running cluster of four CPUs; see ``up.sh`` for its partitions and limits."""

    folder: Path
    environment: dict[str, str]

    def ask(self, *command: str) -> str:
        """The output of one of Slurm's commands."""
        return subprocess.run(command, env=self.environment, check=True, capture_output=True, text=True).stdout

    @property
    def has_accounting(self) -> bool:
        return (self.folder / "slurmdbd.conf").exists()


def why_not() -> str:
    """The reason why no cluster can run here, or ''."""
    missing = [name for name in ("slurmctld", "slurmd", "munged") if shutil.which(name, path=SYSTEM_PATH) is None]
    if missing:
        return f"{', '.join(missing)} not installed (as root on Debian: apt-get install slurm-wlm munge)"
    return "" if os.geteuid() == 0 else "only root can start a Slurm cluster on this machine"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    # Not pytest's tmp_path, which the users munge and mysql may not enter.
    folder = Path(tempfile.mkdtemp(prefix="slurm-test-"))
    try:
        subprocess.run([HERE / "up.sh", folder], check=True, timeout=300)
        environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": SYSTEM_PATH}
        yield Cluster(folder, environment)
    finally:
        subprocess.run([HERE / "down.sh", folder], timeout=120)
        left = processes_of(folder)
        for pid in left:
            os.kill(pid, 9)
        shutil.rmtree(folder, ignore_errors=True)
    assert not left, f"{len(left)} processes of the cluster were still there after down.sh: {left}"


def processes_of(folder: Path) -> dict[int, str]:
    """The processes that name a folder in their command line or environment, this one and its parents aside."""
    found, mark = {}, str(folder).encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            words, environment = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
        except OSError:
            continue
        if mark in words or mark in environment:
            found[int(entry.name)] = words.replace(b"\0", b" ").decode(errors="replace").strip()
    return found
