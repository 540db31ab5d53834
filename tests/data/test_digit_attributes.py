"""Attributes and parts of the digits: on glyphs drawn by hand, then on all digits."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from sfmoe_dg.data.sets.digit_attributes import ATTRIBUTES, PARTS, Glyphs, attributes, parts
from sfmoe_dg.data.sets.styled_digits import digits

# MD5 of the whole tables (parts in thousandths of a pixel).
CHECKSUMS = {
    "attributes": "7fabe281f7a5021c7fd58ffb7d522f39",
    "parts": "d15a4b4ffed286038506c12f7c0a6bbe",
}


def glyph(*boxes: tuple[int, int, int, int], holes: tuple[tuple[int, int, int, int], ...] = ()) -> np.ndarray:
    """A picture with full ink in the boxes (top, bottom, left, right; ends excluded) but not in the holes."""
    ink = np.zeros((1, 32, 32), dtype=np.uint8)
    for value, group in ((255, boxes), (0, holes)):
        for top, bottom, left, right in group:
            ink[0, top:bottom, left:right] = value
    return ink


BAR = glyph((3, 29, 14, 18))
EIGHT = glyph((3, 29, 8, 24), holes=((6, 13, 12, 20), (18, 26, 12, 21)))
SLASH = glyph(*((row, row + 2, 20 - row // 2, 24 - row // 2) for row in range(4, 28, 2)))


def measured(ink: np.ndarray) -> set[str]:
    glyphs = Glyphs(ink)
    return {name for name, attribute in ATTRIBUTES.items() if attribute.measure(glyphs)[0]}


def test_by_hand() -> None:
    assert measured(BAR) == {"mirrors_sideways", "mirrors_upright"}
    # Its lower hole reaches further right and is larger, so there is more ink to the left and above.
    assert measured(EIGHT) == set(ATTRIBUTES) - {"leans_right", "leans_left", "thick", "wide"}
    assert "leans_right" in measured(SLASH)
    assert "leans_left" in measured(SLASH[:, :, ::-1])


def test_measurements_by_hand() -> None:
    bar = Glyphs(BAR)
    assert (bar.area[0], bar.width[0], bar.slant[0]) == (26 * 4, 4, 0)
    assert bar.center.tolist() == [[15.5, 15.5]]
    assert bar.thickness[0] == pytest.approx(2 * 104 / 60)
    assert Glyphs(SLASH).slant[0] == pytest.approx(0.5, abs=0.03)
    eight = Glyphs(EIGHT)
    assert eight.loops[0].tolist() == [[15.5, 9.0, 56], [16.0, 21.5, 72]]


def test_a_corner_does_not_close_a_gap() -> None:
    """Background leaves a ring through a hole in its side, but not across a corner."""
    ring = ((10, 20, 10, 20),)
    closed = glyph(*ring, holes=((12, 18, 12, 18),))
    opened = glyph(*ring, holes=((12, 18, 12, 18), (14, 15, 10, 12)))
    corner = glyph(*ring, holes=((12, 18, 12, 18), (10, 12, 10, 12)))
    assert [bool(Glyphs(g).loops[0, :, 2].max()) for g in (closed, opened, corner)] == [True, False, True]


def test_both_values_of_every_attribute_occur() -> None:
    table = attributes()
    assert table.shape == (1797, len(ATTRIBUTES))
    assert table.dtype == bool
    share = dict(zip(ATTRIBUTES, table.mean(axis=0), strict=True))
    assert all(0.05 <= value <= 0.95 for value in share.values()), share


def test_parts_lie_where_they_should() -> None:
    table, ink = parts(), digits()[0]
    assert table.shape == (1797, len(PARTS), 3)
    visible = dict(zip(PARTS, table[:, :, 2].T.astype(bool), strict=True))
    assert [name for name in PARTS if not visible[name].all()] == ["upper_loop", "lower_loop"]
    assert (table[table[:, :, 2] == 0] == 0).all()
    assert 0 <= table[:, :, :2].min() <= table[:, :, :2].max() <= 31
    place = {name: table[:, i, :2] for i, name in enumerate(PARTS)}
    for name in ("top", "bottom", "left", "right"):
        x, y = place[name].astype(int).T
        assert (ink[np.arange(1797), y, x] >= 100).all(), f"{name} is not on the stroke"
    assert (place["top"][:, 1] < place["center"][:, 1]).all()
    assert (place["bottom"][:, 1] > place["center"][:, 1]).all()
    assert (place["left"][:, 0] < place["center"][:, 0]).all()
    assert (place["right"][:, 0] > place["center"][:, 0]).all()
    columns = list(ATTRIBUTES)
    for name in ("upper_loop", "lower_loop"):
        assert np.array_equal(attributes()[:, columns.index(name)], visible[name])


def test_tables_are_these_numbers() -> None:
    found = {
        "attributes": hashlib.md5(attributes().tobytes()).hexdigest(),
        "parts": hashlib.md5(np.rint(parts() * 1000).astype("<i8").tobytes()).hexdigest(),
    }
    assert found == CHECKSUMS
