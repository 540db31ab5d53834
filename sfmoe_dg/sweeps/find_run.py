"""Find one run of a study by the beginning of its id or by words of its title."""

from __future__ import annotations

import string
from collections.abc import Sequence

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.runs.spec import RunSpec

CANDIDATES = 3
SHOWN_DIGITS = 8
_NUMBERED = ("test", "hparams", "trial")
"""Words of a title that form a unit with the word after them: ``test 0``."""


def title(run: RunSpec) -> str:
    """The name under which commands list a run: the beginning of its id, then its title.

    Examples:
        >>> from sfmoe_dg import RunSpec
        >>> from sfmoe_dg.sweeps.find_run import title
        >>> title(RunSpec(dataset="PACS", algorithm="CORAL", test_envs=(2,)))
        '87a36c40 PACS CORAL test 2 hparams 0 trial 0'
    """
    return f"{run.run_id[:SHOWN_DIGITS]} {run}"


def find_run(runs: Sequence[RunSpec], text: str) -> RunSpec:
    """The one run that ``text`` names: the beginning of its id, or words of its title such as 'PACS ERM test 0'.

    Raises:
        UserError: if no run or more than one run matches; the message lists candidates.
    """
    wanted = _parts(text)
    if not wanted:
        raise UserError("the name of a run is empty; give the beginning of its id, or words of its title")
    common = [len(wanted & _parts(title(run))) for run in runs]
    matching = [run for run, count in zip(runs, common, strict=True) if count == len(wanted)]
    # Titles go first: a word such as "dead" could be the beginning of an id too.
    if not matching and _is_hexadecimal(text):
        matching = [run for run in runs if run.run_id.startswith(text.lower())]
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise UserError(f"{text!r} names {len(matching)} runs ({_listed(matching)}); give more words, or the id")
    near = sorted((i for i, count in enumerate(common) if count), key=lambda i: -common[i])
    hint = f"nearest: {_listed([runs[i] for i in near])}" if near else f"there are, for example: {_listed(runs)}"
    raise UserError(f"no run is named {text!r}; {hint}")


def _is_hexadecimal(text: str) -> bool:
    return all(digit in string.hexdigits for digit in text)


def _parts(text: str) -> set[str]:
    """'PACS ERM test 0' → {'pacs', 'erm', 'test 0'}."""
    parts, words = set[str](), iter(text.casefold().split())
    for word in words:
        parts.add(f"{word} {next(words, '')}".rstrip() if word in _NUMBERED else word)
    return parts


def _listed(runs: Sequence[RunSpec]) -> str:
    shown = ", ".join(title(run) for run in runs[:CANDIDATES])
    return shown + (", …" if len(runs) > CANDIDATES else "")
