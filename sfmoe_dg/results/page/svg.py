"""Line charts as inline SVG: no plotting library, no fonts to load, legible without colour."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 380, 250
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 30, 42
MAX_MARKERS = 20


@dataclass(frozen=True)
class Point:
    """A mean and the range it was taken over."""

    x: float
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Style:
    color: str
    dash: str
    marker: str  # "circle" or "square"


BLUE_CIRCLES = Style("#0072B2", "", "circle")
ORANGE_SQUARES = Style("#D55E00", "6 4", "square")
"""Two colours of Okabe and Ito's palette, told apart by dash and marker as well."""


@dataclass(frozen=True)
class Series:
    name: str
    style: Style
    points: Sequence[Point]


@dataclass(frozen=True)
class Axis:
    """A linear scale from data to pixels with round tick values inside its limits."""

    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> str:
        """The pixel position, to a tenth."""
        share = (value - self.low) / (self.high - self.low)
        return f"{self.start + share * (self.end - self.start):.1f}"

    def ticks(self, count: int = 6) -> list[float]:
        """About ``count`` multiples of 1, 2 or 5 times a power of ten."""
        rough = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(step * i, 10) for i in range(first, last + 1)]


def limits(values: Sequence[float], margin: float = 0.0) -> tuple[float, float]:
    """The range of the values, widened by a share of itself; never empty."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    extra = (high - low) * margin if high > low else 1.0
    return low - extra, high + extra


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str,
    x_limits: tuple[float, float],
    y_limits: tuple[float, float],
) -> str:
    """One ``<svg>`` element with a line, a band from low to high, and markers per series; all text is escaped."""
    x_axis = Axis(*x_limits, LEFT, WIDTH - RIGHT)
    y_axis = Axis(*y_limits, HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
        f"<title>{escape(title)}</title>",
        *_axes(x_axis, y_axis, x_label, y_label),
        *(_band(s, x_axis, y_axis) for s in series if len(s.points) > 1),
        *(part for s in series for part in _line(s, x_axis, y_axis)),
        *_legend(series),
        "</svg>",
    ]
    return "\n".join(parts)


def _axes(x_axis: Axis, y_axis: Axis, x_label: str, y_label: str) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for tick in y_axis.ticks():
        y = y_axis.place(tick)
        parts.append(f'<path class="grid" d="M{LEFT} {y}H{right}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y}" dy="0.35em" text-anchor="end">{tick:g}</text>')
    for tick in x_axis.ticks():
        x = x_axis.place(tick)
        parts.append(f'<path class="axis" d="M{x} {bottom}v4"/>')
        parts.append(f'<text x="{x}" y="{bottom + 17}" text-anchor="middle">{tick:.10g}</text>')
    middle_x, middle_y = (LEFT + right) / 2, (TOP + bottom) / 2
    parts += [
        f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>',
        f'<text x="{middle_x:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>',
        f'<text transform="translate(13 {middle_y:.1f}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>',
    ]
    return parts


def _band(series: Series, x_axis: Axis, y_axis: Axis) -> str:
    there = [f"{x_axis.place(p.x)} {y_axis.place(p.high)}" for p in series.points]
    back = [f"{x_axis.place(p.x)} {y_axis.place(p.low)}" for p in reversed(series.points)]
    return f'<path d="M{"L".join(there + back)}Z" fill="{series.style.color}" fill-opacity="0.14"/>'


def _line(series: Series, x_axis: Axis, y_axis: Axis) -> list[str]:
    places = [(x_axis.place(p.x), y_axis.place(p.mean)) for p in series.points]
    if not places:
        return []
    every = math.ceil(len(places) / MAX_MARKERS)
    path = "L".join(f"{x} {y}" for x, y in places)
    return [_stroke(f"M{path}", series.style), *(_marker(x, y, series.style) for x, y in places[::every])]


def _stroke(path: str, style: Style) -> str:
    dash = f' stroke-dasharray="{style.dash}"' if style.dash else ""
    return f'<path d="{path}" fill="none" stroke="{style.color}" stroke-width="2"{dash}/>'


def _marker(x: str, y: str, style: Style) -> str:
    if style.marker == "circle":
        return f'<circle cx="{x}" cy="{y}" r="3" fill="{style.color}"/>'
    return f'<path d="M{x} {y}m-3-3h6v6h-6z" fill="{style.color}"/>'


def _legend(series: Sequence[Series]) -> list[str]:
    parts = []
    slot = (WIDTH - LEFT - RIGHT) / max(1, len(series))
    for place, s in enumerate(series):
        x = LEFT + place * slot
        parts.append(_stroke(f"M{x:.1f} 14h26", s.style))
        parts.append(_marker(f"{x + 13:.1f}", "14", s.style))
        parts.append(f'<text x="{x + 32:.1f}" y="14" dy="0.35em">{escape(s.name)}</text>')
    return parts
