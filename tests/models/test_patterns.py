"""Which blocks are sparse."""

from __future__ import annotations

import pytest

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.models.architectures.patterns import sparse_blocks


@pytest.mark.parametrize(
    ("pattern", "depth", "expected"),
    [
        ("[S,F]x6", 12, (0, 2, 4, 6, 8, 10)),
        ("[s, f] X 6", 12, (0, 2, 4, 6, 8, 10)),
        ("SFSFSF", 6, (0, 2, 4)),
        ("F*8,[S,F]x2", 12, (8, 10)),
        ("[F,[S]x2]*2", 6, (1, 2, 4, 5)),
        ("Sx12", 12, tuple(range(12))),
        ("F*12", 12, ()),
        ("every-2", 12, (1, 3, 5, 7, 9, 11)),
        ("every-3", 12, (2, 5, 8, 11)),
        ("last-2", 8, (5, 7)),
        ("last-5", 32, (23, 25, 27, 29, 31)),
        ((11, 5), 12, (5, 11)),
        ([3, 7, 11], 12, (3, 7, 11)),
        ((), 12, ()),
    ],
)
def test_patterns(pattern, depth, expected):
    assert sparse_blocks(pattern, depth) == expected


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("[S,F]x5", "describes 10 blocks, but the model has 12"),
        ("", "describes 0 blocks"),
        ("[S,F", "closing bracket"),
        ("S]F", "unexpected ']'"),
        ("SFG", "unexpected 'G'"),
        ("x3", "unexpected 'X'"),
        ("Fx9999", "more than 1000"),
        ("every-0", "n must lie between 1 and 12"),
        ("last-7", "n must lie between 1 and 6"),
        ((12,), "from 0 to 11"),
        ((-1,), "from 0 to 11"),
        ((1.0,), "from 0 to 11"),
        ((True,), "from 0 to 11"),
        ((1, 1), "names a block twice"),
        (7, "moe_layers is 7"),
    ],
)
def test_patterns_that_are_refused(pattern, message):
    with pytest.raises(UserError, match=message):
        sparse_blocks(pattern, 12)
