"""What a figure is saved as: a picture for the screen, one for print, its numbers, and a line on what it shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from sfmoe_dg.records import atomic_file, make_folder, write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 160


@dataclass(frozen=True, eq=False)
class Drawing:
    """A figure that is ready to be saved.

    Attributes:
        name: the files' name without suffix.
        data: every number that is drawn, one row each.
        caption: one line: what was computed, on which split, with how many images.
    """

    name: str
    figure: Figure
    data: pd.DataFrame
    caption: str


def save(folder: Path, drawing: Drawing) -> list[Path]:
    """See :func:`save_figure`."""
    return save_figure(folder, drawing.name, drawing.figure, drawing.data, drawing.caption)


def save_figure(folder: Path, name: str, figure: Figure, data: pd.DataFrame, caption: str) -> list[Path]:
    """Write ``name`` .png, .pdf, .csv and .txt (the caption) into a folder, which is made; returns their paths.

    The same figure gives the same bytes whenever it is saved.
    """
    assert "\n" not in caption, "a caption is one line"
    make_folder(folder)
    paths = [folder / f"{name}.{suffix}" for suffix in ("png", "pdf", "csv", "txt")]
    for path, undated in zip(paths[:2], ({"Software": None}, {"CreationDate": None}), strict=True):
        with atomic_file(path) as file:
            figure.savefig(file, format=path.suffix[1:], dpi=DOTS_PER_INCH, bbox_inches="tight", metadata=undated)
    write_atomic(paths[2], data.to_csv(index=False, lineterminator="\n"))
    write_atomic(paths[3], caption + "\n")
    return paths
