"""Make small image folders for the tests of this folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = (24, 20)) -> Path:
    """A picture of random pixels; ``size`` is width and height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(seed).randint(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_tree(
    root: Path, domains: Sequence[str] = ("a", "b", "c"), classes: Sequence[str] = ("cat", "dog"), per_class: int = 6
) -> Path:
    """``root/domain/class/{i}.png``, every picture another."""
    seed = 0
    for domain in domains:
        for name in classes:
            for i in range(per_class):
                write_image(root / domain / name / f"{i}.png", seed=(seed := seed + 1))
    return root
