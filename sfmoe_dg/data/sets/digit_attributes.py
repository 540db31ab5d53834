"""Binary attributes and part locations of the digits of StyledDigits, for the analyses.

Both are measured from the glyph, never from its class, and hold in all four styles. They stand for CUB's attributes and
part locations. Positions are pixels of the 32×32 picture, x to the right and y downwards, pixel centres
at whole numbers.

Legend: N digits, A attributes, P parts, H = W = 32 pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage

from sfmoe_dg.data.sets.styled_digits import HALF_INK, SIZE, digits

MIDDLE = (SIZE - 1) / 2


class Glyphs:
    """Measurements of strokes, every one an array over N digits.

    Args:
        ink: uint8 [N, 32, 32]; a pixel of at least ``HALF_INK`` belongs to the stroke. No digit may be empty.
    """

    def __init__(self, ink: np.ndarray) -> None:
        self.stroke = ink >= HALF_INK
        self.area = self.stroke.sum(axis=(1, 2))
        assert self.area.min() > 0

    def _mean(self, values: np.ndarray) -> np.ndarray:
        return np.where(self.stroke, values, 0).sum(axis=(1, 2)) / self.area

    @cached_property
    def center(self) -> np.ndarray:
        """Centre of mass (x, y), [N, 2]."""
        y, x = np.indices((SIZE, SIZE))
        return np.stack([self._mean(x), self._mean(y)], axis=1)

    @cached_property
    def slant(self) -> np.ndarray:
        """Horizontal drift per pixel upwards: the regression of x on -y over the stroke. Above 0 leans right."""
        y, x = np.indices((SIZE, SIZE))
        dx, dy = x - self.center[:, 0, None, None], y - self.center[:, 1, None, None]
        return -self._mean(dx * dy) / self._mean(dy * dy)

    @cached_property
    def width(self) -> np.ndarray:
        return self.stroke.any(axis=1).sum(axis=1)

    @cached_property
    def thickness(self) -> np.ndarray:
        """Stroke width in pixels: twice the area per pixel edge of outline."""
        padded = np.pad(self.stroke, ((0, 0), (1, 1), (1, 1)))
        outline = (padded[:, 1:] != padded[:, :-1]).sum(axis=(1, 2)) + (padded[:, :, 1:] != padded[:, :, :-1]).sum(
            axis=(1, 2)
        )
        return 2 * self.area / outline

    def overlap(self, mirrored: np.ndarray) -> np.ndarray:
        """Shared pixels over all pixels of the stroke and its mirror image in the picture's middle."""
        return (self.stroke & mirrored).sum(axis=(1, 2)) / (self.stroke | mirrored).sum(axis=(1, 2))

    def width_of_rows(self, first: int, last: int) -> np.ndarray:
        """Columns with stroke in the rows from ``first`` to before ``last``."""
        return self.stroke[:, first:last].any(axis=1).sum(axis=1)

    @cached_property
    def loops(self) -> np.ndarray:
        """The largest closed loop above and the largest below the middle: (x, y, pixels), [N, 2, 3]; pixels 0: none.

        A loop is background that is cut off from the outside for steps along rows and columns.
        """
        outside_first = np.pad(~self.stroke, ((0, 0), (1, 1), (1, 1)), constant_values=True)
        within_picture = np.zeros((3, 3, 3), dtype=int)
        within_picture[1] = ndimage.generate_binary_structure(2, 1)
        labels, count = ndimage.label(outside_first, structure=within_picture)
        n, y, x = np.nonzero(labels)
        region = labels[n, y, x]
        pixels = np.bincount(region, minlength=count + 1)
        loops = np.zeros((len(labels), 2, 3))
        outside = set(labels[:, 0, 0].tolist())
        digit = np.zeros(count + 1, dtype=int)
        digit[region] = n
        mean_x = np.bincount(region, weights=x - 1) / np.maximum(pixels, 1)
        mean_y = np.bincount(region, weights=y - 1) / np.maximum(pixels, 1)
        for label in range(1, count + 1):
            half = int(mean_y[label] > MIDDLE)
            if label not in outside and pixels[label] > loops[digit[label], half, 2]:
                loops[digit[label], half] = mean_x[label], mean_y[label], pixels[label]
        return loops


@dataclass(frozen=True)
class Attribute:
    """A binary attribute: its rule in words and as a function of the glyphs, bool [N]."""

    rule: str
    measure: Callable[[Glyphs], np.ndarray]


# Thresholds without a natural value are medians over the 1,797 digits, measured once and rounded.
ATTRIBUTES: dict[str, Attribute] = {
    "loop": Attribute("encloses background", lambda g: g.loops[:, :, 2].max(axis=1) > 0),
    "upper_loop": Attribute("encloses background centred above the middle", lambda g: g.loops[:, 0, 2] > 0),
    "lower_loop": Attribute("encloses background centred below the middle", lambda g: g.loops[:, 1, 2] > 0),
    "large_loop": Attribute("encloses at least 20 pixels in one piece", lambda g: g.loops[:, :, 2].max(axis=1) >= 20),
    "leans_right": Attribute("drifts to the right by at least 0.05 pixels per pixel up", lambda g: g.slant >= 0.05),
    "leans_left": Attribute("drifts to the left by at least 0.10 pixels per pixel up", lambda g: g.slant <= -0.10),
    "wide": Attribute("is at least 17 pixels wide", lambda g: g.width >= 17),
    "heavy": Attribute("covers at least 238 pixels", lambda g: g.area >= 238),
    "thick": Attribute("has a mean stroke width of at least 4.3 pixels", lambda g: g.thickness >= 4.3),
    "top_heavy": Attribute("has its centre of mass above the middle", lambda g: g.center[:, 1] < MIDDLE),
    "left_heavy": Attribute("has its centre of mass left of the middle", lambda g: g.center[:, 0] < MIDDLE),
    "broad_top": Attribute("is at least 11 pixels wide in rows 3 to 6", lambda g: g.width_of_rows(3, 7) >= 11),
    "broad_foot": Attribute("is at least 11 pixels wide in rows 25 to 28", lambda g: g.width_of_rows(25, 29) >= 11),
    "mirrors_sideways": Attribute(
        "overlaps by at least 0.5 with its left-right mirror image", lambda g: g.overlap(g.stroke[:, :, ::-1]) >= 0.5
    ),
    "mirrors_upright": Attribute(
        "overlaps by at least 0.5 with its upside-down mirror image", lambda g: g.overlap(g.stroke[:, ::-1]) >= 0.5
    ),
}
"""Name to rule. Their shares among the digits lie between 5 % and 95 %."""

PARTS = ("top", "bottom", "left", "right", "center", "upper_loop", "lower_loop")
"""The extreme points of the stroke, its centre of mass, and the centres of loops, if the digit has any."""


def attributes() -> np.ndarray:
    """bool [N, A], in the order of ``ATTRIBUTES``; row i is the object with identity i."""
    glyphs = Glyphs(digits()[0])
    return np.stack([attribute.measure(glyphs) for attribute in ATTRIBUTES.values()], axis=1)


def parts() -> np.ndarray:
    """float64 [N, P, 3] in the order of ``PARTS``: x, y and 1 if visible; otherwise all three are 0."""
    glyphs = Glyphs(digits()[0])
    extremes = [_extreme(glyphs.stroke, axis, end) for axis, end in ((1, 0), (1, -1), (2, 0), (2, -1))]
    loops = np.where(glyphs.loops[:, :, 2:] > 0, glyphs.loops, 0.0)
    loops[:, :, 2] = loops[:, :, 2] > 0
    center = np.column_stack([glyphs.center, np.ones(len(glyphs.center))])
    return np.stack([*extremes, center, loops[:, 0], loops[:, 1]], axis=1)


def _extreme(stroke: np.ndarray, axis: int, end: int) -> np.ndarray:
    """The middle stroke pixel of the outermost row (``axis`` 1) or column (``axis`` 2) with any: (x, y, 1) [N, 3]."""
    found = np.empty((len(stroke), 3))
    for i, picture in enumerate(stroke if axis == 1 else stroke.transpose(0, 2, 1)):
        line = np.flatnonzero(picture.any(axis=1))[end]
        across = np.flatnonzero(picture[line])
        middle = across[len(across) // 2]
        found[i] = (middle, line, 1) if axis == 1 else (line, middle, 1)
    return found
