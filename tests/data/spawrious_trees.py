"""Make a small Spawrious in the real layout."""

from __future__ import annotations

from pathlib import Path

from image_trees import write_image

BACKGROUNDS = ("beach", "desert", "dirt", "jungle", "mountain", "snow")
BREEDS = ("bulldog", "corgi", "dachshund", "labrador")


def write_spawrious(root: Path, per_folder: int) -> Path:
    """``root/{0,1}/background/breed/background_breed_i.png``, every picture another."""
    seed = 0
    for environment in ("0", "1"):
        for background in BACKGROUNDS:
            for breed in BREEDS:
                for i in range(per_folder):
                    path = root / environment / background / breed / f"{background}_{breed}_{i}.png"
                    write_image(path, seed=(seed := seed + 1), size=(3, 2))
    return root
