"""How a figure is saved: as PNG for the screen, as PDF for print, its numbers as CSV and its caption as text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.files import atomic_file, make_folder, write_atomic

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


def caption(what: str, *, n: str, unit: str, not_shown: str) -> str:
    """A caption in one line: what is drawn, how many, what one observation is, and what the figure does not show."""
    return f"{what}. n: {n}. Unit: {unit}. Not shown: {not_shown}."


def save(folder: Path, drawing: Drawing) -> list[Path]:
    """Write the drawing's .png, .pdf, .csv and .txt (the caption) into a folder and return their paths.

    The folder is made if needed. Files carry no date: the same figure always gives the same bytes.

    Raises:
        UserError: if the caption is not one line.
    """
    if "\n" in drawing.caption:
        raise UserError(f"the caption of the figure {drawing.name!r} has several lines; it must be one")
    make_folder(folder)
    paths = [folder / f"{drawing.name}.{suffix}" for suffix in ("png", "pdf", "csv", "txt")]
    for path, undated in zip(paths[:2], ({"Software": None}, {"CreationDate": None}), strict=True):
        with atomic_file(path) as file:
            drawing.figure.savefig(
                file, format=path.suffix[1:], dpi=DOTS_PER_INCH, bbox_inches="tight", metadata=undated
            )
    write_atomic(paths[2], drawing.data.to_csv(index=False, lineterminator="\n"))
    write_atomic(paths[3], drawing.caption + "\n")
    return paths
