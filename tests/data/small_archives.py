"""Make archives of small folder trees in the layouts that the builders of data sets read."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from image_trees import write_image

from sfmoe_dg.data.catalog import CATALOG


def write_tree(root: Path, domains: Sequence[str], classes: Sequence[str]) -> None:
    """``root/domain/class/0.png``, the same picture everywhere."""
    picture = write_image(root / "0.png").read_bytes()
    (root / "0.png").unlink()
    for folder in (root / domain / name for domain in domains for name in classes):
        folder.mkdir(parents=True)
        (folder / "0.png").write_bytes(picture)


def packed(folder: Path, archive: Path) -> Path:
    """Pack the content of a folder into a zip or tar.gz file; the archive's name decides which."""
    kind = "zip" if archive.suffix == ".zip" else "gztar"
    made = shutil.make_archive(str(archive.with_suffix("")) + "_made", kind, folder)
    shutil.rmtree(folder)
    return Path(made).rename(archive)


def classes(name: str) -> list[str]:
    return [f"class{i:03d}" for i in range(CATALOG.load(name).num_classes)]
