"""Make a folder like a reader's clone of the repository after setup, with small data and a finished study."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
from blocks import ROOT
from PIL import Image
from shortened import STUDY_LINES, domainbed, vmoe_checkpoint

sys.path.insert(0, str(ROOT / "tests" / "data"))

from cub_trees import write_cub, write_styles

from sfmoe_dg.data.catalog import CATALOG

PACS_CLASSES = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
STUDY = "results/quickstart"
VMOE = "vmoe_s32_last2_ilsvrc2012_randaug_light1"
RUNS = ("results/one", "runs/sf_moe")
_PROGRAMS = {
    "python": '"$PYTHON" "$@"',
    "sfmoe-dg": '"$PYTHON" -m sfmoe_dg "$@"',
    "torchrun": '"$PYTHON" -m torch.distributed.run "$@"',
}
_TABLE_1 = ("VLCS", "OfficeHome", "TerraIncognita", "DomainNet")


def make_folder(folder: Path) -> Path:
    """The Makefile, the studies (quickstart shortened), the programs of ``.venv`` and the data sets' folders."""
    folder.mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    for name in ("sweeps", "datasets", "bench", "analysis"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    quickstart = folder / "sweeps" / "quickstart.toml"
    text = quickstart.read_text()
    for entry in STUDY_LINES:
        text = re.sub(entry.pattern, entry.becomes, text, flags=re.MULTILINE)
    quickstart.write_text(text)
    _write_pictures(folder / "DATA" / "PACS", CATALOG.load("PACS").domains, PACS_CLASSES, 1)
    _write_pictures(folder / "ROOT", ("one", "two"), ("cat", "dog"), 3)
    for name in _TABLE_1:
        (folder / "DATA" / CATALOG.load(name).folder).mkdir()
    _write_digits(folder / "DATA" / "MNIST" / "raw")
    if checkout := domainbed():
        (folder / "DomainBed").symlink_to(checkout)
    if checkpoint := vmoe_checkpoint():
        for file in checkpoint.parent.glob(f"{checkpoint.name}.*"):
            (folder / f"{VMOE}{file.name.removeprefix(checkpoint.name)}").symlink_to(file)
    _write_programs(folder / ".venv")
    (folder / ".config" / "fish" / "completions").mkdir(parents=True)
    return folder


def add_birds(folder: Path, page: str) -> None:
    """Add a miniature CUB-200-2011 and style networks at the paths that pages use."""
    cub, styles = write_cub(folder), write_styles(folder / "STYLES")
    (folder / "DATA" / cub.name).symlink_to(cub)
    (folder / "WEIGHTS").symlink_to(styles)
    if "datasets/cub_dg.py" not in page:  # which it takes as built
        script = "python datasets/cub_dg.py --cub CUB_200_2011 --weights STYLES --out DATA --size 64"
        result = execute(script, folder)
        assert result.returncode == 0, result.stderr


def add_study(folder: Path, finished: Path, page: str) -> None:
    """The finished study, and its SF-MoE under the names that pages use for a run, unless the page trains that."""
    shutil.copytree(finished / STUDY, folder / STUDY)
    for name in RUNS:
        if not re.search(rf"--output_dir {name}(\n| --)", page):
            shutil.copytree(folder / STUDY / sparse_run(finished), folder / name)


def sparse_run(folder: Path) -> str:
    """The name of the folder of the study's SF-MoE."""
    results = (folder / STUDY).glob("*/results.jsonl")
    return next(path.parent.name for path in results if '"algorithm": "SFMoE"' in path.read_text())


def execute(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command line with bash in this folder, as a reader would."""
    # The make that runs the tests hands its own flags and variables on.
    variables = re.findall(r"^(\w+) *\?=", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    handed_on = {"MAKEFLAGS", "MAKELEVEL", *variables}
    environment = {name: value for name, value in os.environ.items() if name not in handed_on} | {
        "PATH": f"{folder / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "SFMOE_DG_CACHE": str(folder / "cache"),
        "HOME": str(folder),
        "WANDB_MODE": "offline",
    }
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )


def _write_pictures(root: Path, domains: tuple[str, ...], classes: tuple[str, ...], per_class: int) -> None:
    random = np.random.default_rng(0)
    for domain in domains:
        for name in classes:
            (root / domain / name).mkdir(parents=True)
            for i in range(per_class):
                pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / domain / name / f"{i}.jpg")


def _write_digits(raw: Path) -> None:
    """MNIST's four files with few digits of noise: a magic number, lengths, values."""
    random = np.random.default_rng(0)
    raw.mkdir(parents=True)
    for part, count in (("train", 240), ("t10k", 60)):
        images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        for values, kind in ((images, "images-idx3"), (labels, "labels-idx1")):
            header = struct.pack(f">{1 + values.ndim}I", 0x800 + values.ndim, *values.shape)
            (raw / f"{part}-{kind}-ubyte").write_bytes(header + values.tobytes())


def _write_programs(environment: Path) -> None:
    """``.venv`` with this interpreter in it, newer than what it is made from, so that make finds it set up."""
    (environment / "bin").mkdir(parents=True)
    for name, line in _PROGRAMS.items():
        program = environment / "bin" / name
        program.write_text(f"#!/bin/sh\nexec {line}\n")
        program.chmod(0o755)
    (environment / ".installed").touch()
