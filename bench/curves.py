"""Tables in Markdown, and figures of ratios, of what was measured at several sizes."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from sfmoe_dg.analysis.drawing.saving import DOTS_PER_INCH
from sfmoe_dg.analysis.drawing.style import curve, plain_axes
from sfmoe_dg.foundation.files import atomic_file


@dataclass
class Curve:
    """A quantity that every round measures at every size: ``rounds[size]`` are its values."""

    name: str
    unit: str
    rounds: dict[int, list[float]] = field(default_factory=dict)

    def median(self, size: int) -> float:
        return statistics.median(self.rounds[size])

    def ratios(self, size: int) -> list[float]:
        """The ratio to the smallest size, of every round."""
        return [a / b for a, b in zip(self.rounds[size], self.rounds[min(self.rounds)], strict=True)]

    @property
    def exponent(self) -> float:
        """The p of cost ~ size^p between the smallest and the largest size; NaN if there is one size only."""
        low, high = min(self.rounds), max(self.rounds)
        if low == high:
            return math.nan
        return math.log(self.median(high) / self.median(low)) / math.log(high / low)


class Curves(dict[str, Curve]):
    """By name, in the order of the first values."""

    def add(self, name: str, unit: str, size: int, value: float) -> None:
        self.setdefault(name, Curve(name, unit)).rounds.setdefault(size, []).append(value)


def print_table(title: str, what: str, curves: Curves) -> None:
    sizes = sorted({size for one in curves.values() for size in one.rounds})
    print(f"\n### {title}\n\n| | at {what} {sizes[0]:,} | "
          + " | ".join(f"{size:,}" for size in sizes[1:]) + " | exponent |")  # fmt: skip
    print("|---|---|" + "---|" * len(sizes))
    for one in curves.values():
        cells = [f"{one.median(sizes[0]):.4g} {one.unit}"]
        for size in sizes[1:]:
            found = sorted(one.ratios(size))
            cells.append(f"× {statistics.median(found):.2f} ({found[0]:.2f}–{found[-1]:.2f})")
        print(f"| {one.name} | {' | '.join(cells)} | {one.exponent:.2f} |", flush=True)


def draw(
    axes: Any, curves: dict[str, Curve], what: str, how_much: str, logarithmic: bool = False, ratio: bool = False
) -> None:
    """Medians with their range; as ratios to the smallest size, or as they are on logarithmic axes."""
    for place, one in enumerate(curves.values()):
        sizes = sorted(one.rounds)
        values = [one.ratios(size) if ratio else one.rounds[size] for size in sizes]
        middle = [statistics.median(found) for found in values]
        error = [[m - min(v) for m, v in zip(middle, values, strict=True)],
                 [max(v) - m for m, v in zip(middle, values, strict=True)]]  # fmt: skip
        curve(axes, place, sizes, middle, error, one.name.strip())
    plain_axes(axes, what, f"{how_much}, ratio to the smallest" if ratio else how_much)
    axes.set_xscale("log", base=2)
    if logarithmic or max(max(one.ratios(max(one.rounds))) for one in curves.values()) > 8:
        axes.set_yscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    above(axes)


def above(axes: Any) -> None:
    """Put the legend above the axes, where it hides no line."""
    axes.legend(fontsize=7, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)


def save(figure: Figure, folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / f"{name}.png") as file:
        figure.savefig(file, format="png", dpi=DOTS_PER_INCH, bbox_inches="tight", metadata={"Software": None})
