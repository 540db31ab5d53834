"""The style of all figures, and drawing functions that several figures share.

Colours can be told apart with every kind of colour vision: the palette of Okabe and Ito (Color Universal Design, 2008)
for categories, matplotlib's cividis for amounts, and PuOr for amounts around zero. A colour is never the only mark:
text, a marker or a dash says the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
AMOUNTS = "cividis"
AROUND_ZERO = "PuOr"


def new_figure(
    rows: int, columns: int, width: float, height: float, **grid: Any
) -> tuple[Figure, np.ndarray[Any, np.dtype[np.object_]]]:
    """A figure of rows × columns axes that do not overlap; ``width`` and ``height`` of one of them are in inches."""
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **grid)
    return figure, axes


def colour(place: int) -> str:
    """The colour of a category by its place. After eight the colours repeat; the written number tells them apart."""
    return PALETTE[place % len(PALETTE)]


def dash(place: int) -> str:
    return DASHES[place % len(DASHES)]


def marker(place: int) -> str:
    return MARKERS[place % len(MARKERS)]


def categories(number: int) -> ListedColormap:
    """A colour map whose value ``i`` is the colour of category ``i``."""
    return ListedColormap([colour(i) for i in range(number)])


def ink_on(background: Any) -> str:
    """Black or white, whichever is easier to read on a background (relative luminance of WCAG 2)."""
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in mpl.colors.to_rgb(background)
    )
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 else "white"


def heat_map(
    axes: Axes,
    values: np.ndarray,
    rows: Sequence[Any],
    columns: Sequence[Any],
    *,
    limits: tuple[float, float],
    around_zero: bool = False,
    digits: int | None = None,
    marks: np.ndarray | None = None,
) -> Any:
    """A labelled matrix; returns the image for a colour bar.

    Args:
        values: [rows, columns]; NaN is left grey.
        digits: number of decimals of the written values; None writes none.
        marks: bool [rows, columns], which cells get a star.
    """
    palette = mpl.colormaps[AROUND_ZERO if around_zero else AMOUNTS].with_extremes(bad="#dddddd")
    low, high = limits if limits[1] > limits[0] else (limits[0], limits[0] + 1)
    image = axes.imshow(np.ma.masked_invalid(values), cmap=palette, vmin=low, vmax=high, aspect="auto")
    axes.set_xticks(range(len(columns)), [str(name) for name in columns])
    axes.set_yticks(range(len(rows)), [str(name) for name in rows])
    axes.tick_params(length=0)
    for row, column in np.argwhere(~np.isnan(values)):
        value = values[row, column]
        text = "" if digits is None else f"{value:.{digits}f}"
        text += "*" if marks is not None and marks[row, column] else ""
        if text:
            ink = ink_on(palette((value - low) / (high - low)))
            axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=8)
    return image


def expert_cells(axes: Axes, experts: np.ndarray, num_experts: int, alpha: float = 0.62) -> None:
    """Colour the patches of a picture by expert and write the experts' numbers. The axes go from 0 to 1.

    Args:
        experts: int [h, w].
    """
    rows, columns = experts.shape
    axes.imshow(
        experts, cmap=categories(num_experts), vmin=-0.5, vmax=num_experts - 0.5, alpha=alpha, extent=(0, 1, 1, 0),
        interpolation="nearest",
    )  # fmt: skip
    size = min(9.0, 60 / max(rows, columns))
    for row, column in np.ndindex(rows, columns):
        place = ((column + 0.5) / columns, (row + 0.5) / rows)
        text = axes.text(*place, str(experts[row, column]), ha="center", va="center", fontsize=size, color="black")
        text.set_path_effects([withStroke(linewidth=1.5, foreground="#ffffffbf")])


def picture(axes: Axes, pixels: np.ndarray) -> None:
    """Show a picture, uint8 [height, width, 3], on axes from 0 to 1 without ticks."""
    axes.imshow(pixels, extent=(0, 1, 1, 0), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)


def plain_axes(axes: Axes, x_label: str, y_label: str) -> None:
    """Labels, a light grid behind, and no frame above and to the right."""
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(color="#e1e1e1", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def curve(axes: Axes, place: int, x: Any, y: Any, error: Any = None, label: str = "") -> None:
    """A line with markers and error bars; ``place`` chooses its colour, dash and marker."""
    axes.errorbar(
        x, y, yerr=error, label=label, color=colour(place), linestyle=dash(place), marker=marker(place), markersize=5,
        capsize=2.5, linewidth=1.6,
    )  # fmt: skip


def annotate_points(axes: Axes, x: Sequence[float], y: Sequence[float], names: Sequence[str]) -> None:
    """Write names beside points; each is moved up or down until it overlaps no earlier one."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    axes.margins(x=0.25, y=0.2)
    # The points' positions in pixels are known after the layout only.
    figure.draw_without_rendering()
    taken: list[Any] = []
    for px, py, name in zip(x, y, names, strict=True):
        text = axes.annotate(name, (px, py), xytext=(6, 6), textcoords="offset points", fontsize=8, va="center")
        text.set_in_layout(False)
        for step in range(1, 40):
            box = text.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                break
            text.set_position((6, 6 + (step + 1) // 2 * 5 * (1 if step % 2 else -1)))
        taken.append(text.get_window_extent())
