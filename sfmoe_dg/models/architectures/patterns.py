"""Which blocks are sparse, written as in the papers: [S,F]x6, every-n, last-n.

    pattern = item { [","] item }        item = ( "S" | "F" | "[" pattern "]" ) [ ("x" | "*") number ]

S is a sparse block (mixture of experts), F a fusion block (dense FFN); spaces and letter case do not matter. Examples
for 12 blocks: ``[S,F]x6``, ``SFSFSFSFSFSF``, ``F*8,[S,F]x2``. A pattern's length must equal the depth.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sfmoe_dg.foundation.errors import UserError

_HELP = "write it like '[S,F]x6', 'F*8,[S,F]x2', 'every-2', 'last-2', or a list of 0-based block indices"
_MAX_BLOCKS = 1000


def sparse_blocks(pattern: str | Sequence[int], depth: int) -> tuple[int, ...]:
    """0-based indices of the sparse blocks, ascending.

    Args:
        pattern: a pattern as above; 'every-n' (n−1, 2n−1, …) or 'last-n' (the last n of 1, 3, 5, …), both as in V-MoE's
            code; or the indices themselves.
        depth: number of blocks.

    Raises:
        UserError: if it cannot be read, does not fit the depth, or repeats or leaves the range of indices.
    """
    if not isinstance(pattern, str):
        return _checked_indices(pattern, depth)
    text = re.sub(r"\s+", "", pattern).upper()
    named = re.fullmatch(r"(EVERY|LAST)-(\d+)", text)
    if named:
        return _every_or_last(named[1], int(named[2]), pattern, depth)
    letters, end = _parse(text, 0, pattern)
    if end != len(text):
        raise UserError(f"moe_layers {pattern!r} has an unexpected {text[end]!r}; {_HELP}")
    if len(letters) != depth:
        raise UserError(f"moe_layers {pattern!r} describes {len(letters)} blocks, but the model has {depth}; {_HELP}")
    return tuple(i for i, letter in enumerate(letters) if letter == "S")


def _every_or_last(word: str, n: int, pattern: str, depth: int) -> tuple[int, ...]:
    odd = range(1, depth, 2)
    limit = depth if word == "EVERY" else len(odd)
    if not 1 <= n <= limit:
        raise UserError(f"moe_layers {pattern!r} does not fit {depth} blocks; n must lie between 1 and {limit}")
    return tuple(range(n - 1, depth, n)) if word == "EVERY" else tuple(odd[-n:])


def _checked_indices(pattern: Sequence[int], depth: int) -> tuple[int, ...]:
    try:
        indices = tuple(pattern)
    except TypeError:
        raise UserError(f"moe_layers is {pattern!r}; {_HELP}") from None
    for i in indices:
        if not isinstance(i, int) or isinstance(i, bool) or not 0 <= i < depth:
            raise UserError(f"moe_layers has {i!r}; block indices are whole numbers from 0 to {depth - 1}")
    if len(set(indices)) != len(indices):
        raise UserError(f"moe_layers {list(indices)} names a block twice")
    return tuple(sorted(indices))


def _parse(text: str, at: int, pattern: str) -> tuple[str, int]:
    letters = ""
    while at < len(text) and text[at] != "]":
        if text[at] == ",":
            at += 1
            continue
        if text[at] == "[":
            item, at = _parse(text, at + 1, pattern)
            if at >= len(text):
                raise UserError(f"moe_layers {pattern!r} lacks a closing bracket; {_HELP}")
            at += 1
        elif text[at] in "SF":
            item, at = text[at], at + 1
        else:
            raise UserError(f"moe_layers {pattern!r} has an unexpected {text[at]!r}; {_HELP}")
        times = re.compile(r"[X*](\d{1,4})").match(text, at)
        if times:
            item, at = item * int(times[1]), times.end()
        letters += item
        if len(letters) > _MAX_BLOCKS:
            raise UserError(f"moe_layers {pattern!r} describes more than {_MAX_BLOCKS} blocks; {_HELP}")
    return letters, at
