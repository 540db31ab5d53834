"""Make packages visible as pip does, without pip, for tests of entry points."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def install(source: Path, target: Path) -> None:
    """Put the package of a folder with a pyproject.toml into ``target``, which is for PYTHONPATH."""
    content = tomllib.loads((source / "pyproject.toml").read_text())
    for module in content["tool"]["setuptools"]["py-modules"]:
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / f"{module}.py", target)
    project = content["project"]
    offer(target, project["name"], project["version"], project["entry-points"])


def offer(target: Path, name: str, version: str, groups: dict[str, dict[str, str]]) -> None:
    """Put the metadata of a package with these entry points into ``target``."""
    folder = target / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = []
    for group, points in groups.items():
        lines += [f"[{group}]", *(f"{point} = {value}" for point, value in points.items())]
    (folder / "entry_points.txt").write_text("\n".join(lines) + "\n")


def command(*words: str, **settings) -> subprocess.CompletedProcess[str]:
    """``sfmoe-dg WORDS`` as a process of its own."""
    return subprocess.run([sys.executable, "-m", "sfmoe_dg", *words], capture_output=True, text=True, **settings)
