"""The table of docs/objectives.md, made from the registry and the classes.

`python docs/site_objectives.py` rewrites it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from sfmoe_dg.algorithms.base import Algorithm
from sfmoe_dg.algorithms.common_hparams import common_hparams
from sfmoe_dg.algorithms.registry import ALGORITHMS

PAGE = Path(__file__).with_name("objectives.md")
START, END = "<!-- objectives: python docs/site_objectives.py -->\n", "<!-- end of objectives -->"
TITLES = (
    "objective",
    "what it does",
    "own hyper-parameters",
    "shared by processes",
    "waits for the device",
)
_ROLE = re.compile(r":\w+:`([\w.]+)`")


def objectives() -> Iterator[tuple[str, type[Algorithm]]]:
    """Names and classes of all objectives, without the names that stand for ERM with another backbone."""
    for name in ALGORITHMS:
        algorithm = ALGORITHMS.load(name)
        if algorithm.__module__ == "sfmoe_dg.algorithms.erm" or ".objectives." in algorithm.__module__:
            yield name, algorithm


def row(name: str, algorithm: type[Algorithm]) -> tuple[str, ...]:
    """An objective's cells: the first paragraph of its docstring, and what its attributes say."""
    summary = " ".join((algorithm.__doc__ or "").partition("\n\n")[0].split())
    common = common_hparams("PACS")
    own = {key: value.default for key, value in algorithm.hparam_table("PACS").items() if key not in common}
    defaults = [f"`{key}` {f'{value:g}' if isinstance(value, float) else value}" for key, value in own.items()]
    summary = _ROLE.sub(r"`\1`", summary).replace("``", "`")
    return name, summary, ", ".join(defaults), ", ".join(algorithm.parallel_modes), algorithm.waits_for_device


def table() -> str:
    """The table in GitHub's Markdown."""
    lines = [TITLES, ("---",) * len(TITLES), *(row(*objective) for objective in objectives())]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def rewritten(page: str) -> str:
    """The page with the table of now between its markers."""
    before, _, rest = page.partition(START)
    return before + START + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
