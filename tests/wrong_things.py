"""Makers of wrong inputs; each is called in an empty folder."""

from __future__ import annotations

import os
import pickle
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from study_makers import make_study

Maker = Callable[[Path], None]
"""Called with the folder of the finished runs, to copy from."""

STUDY = {
    "datasets": '["Debug28"]',
    "algorithms": '["ERM"]',
    "n_trials": "1",
    "n_hparams": "1",
    "test_envs": "[[0]]",
    "steps": "1",
}
RECORD = (
    '{"args": {"algorithm": "ERM", "dataset": "Debug28", "hparams_seed": 0, "test_envs": [0], "trial_seed": 0}, '
    '"step": 0, "hparams": {}, "env0_in_acc": 0.5, "env0_out_acc": 0.5, "env1_in_acc": 0.5, "env1_out_acc": 0.5}\n'
)
BAD = "data/b/dog/0.png"
"""The image that is broken."""


def text(path: str, content: str | bytes = "") -> Maker:
    def make(_: Path) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content if isinstance(content, bytes) else content.encode())

    return make


def folder(path: str) -> Maker:
    return lambda _: Path(path).mkdir(parents=True)


def study(tables: str = "", **keys: str | None) -> Maker:
    """s.toml, with keys of STUDY replaced, added or (None) left out."""
    lines = [f"{key} = {value}\n" for key, value in {**STUDY, **keys}.items() if value is not None]
    return text("s.toml", "".join(lines) + tables)


def planned(_: Path) -> None:
    """The folder of a sweep of which no run has begun."""
    make_study(Path("out"))


def records(content: str | bytes = RECORD) -> Maker:
    return text("results/x/results.jsonl", content)


def finished(name: str, to: str) -> Maker:
    """A copy of a run that was trained: 'cnn', 'moe', or 'interrupted'."""
    return lambda trained: shutil.copytree(trained / name, to) and None


def without(*paths: str) -> Maker:
    def make(_: Path) -> None:
        for path in map(Path, paths):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return make


def cut(path: str, size: int) -> Maker:
    return lambda _: os.truncate(path, size)


def images(
    domains: str = "abc", classes: tuple[str, ...] = ("cat", "dog"), count: int = 3, root: str = "data"
) -> Maker:
    """Tiny pictures in ``root/domain/class``; a domain's name has one letter."""

    def make(_: Path) -> None:
        pixels = np.random.RandomState(0).randint(0, 256, (8, 8, 3), dtype=np.uint8)
        for domain in domains:
            for name in classes:
                Path(root, domain, name).mkdir(parents=True)
                for i in range(count):
                    Image.fromarray(pixels).save(Path(root, domain, name, f"{i}.png"))

    return make


def link(path: str, to: str) -> Maker:
    return lambda _: os.symlink(to, path)


def picture_of_size(width: int, height: int) -> Maker:
    """A PNG of a few bytes whose header declares this size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    content = chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    return text(BAD, b"\x89PNG\r\n\x1a\n" + header + content)


def floats(_: Path) -> None:
    """A picture whose pixels are floating-point numbers of unknown range."""
    Image.fromarray(np.linspace(-3, 900, 64, dtype=np.float32).reshape(8, 8)).save("data/b/dog/3.tiff")


class Malice:
    """An object that makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("was_executed",)


def malicious(path: str) -> Maker:
    def make(_: Path) -> None:
        with open(path, "wb") as file:
            pickle.dump(Malice(), file)

    return make


def checkout(_: Path) -> None:
    """A folder that passes for a checkout of DomainBed."""
    for name in ("__init__", "algorithms", "datasets", "hparams_registry", "scripts/train"):
        text(f"bed/domainbed/{name}.py", "ALGORITHMS = []\n")(Path())
