"""Tests and benchmarks of all algorithms or backbones ask the registries: a new one needs no line in their lists."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from source import python_files, tree, where

from sfmoe_dg.algorithms.registry import ALGORITHMS
from sfmoe_dg.models.backbones import known_backbones

MOST = 4
"""Names that a list may choose; one of more enumerates."""

CHOSEN = {
    ("bench/collect.py", "ALGORITHMS"): "the algorithms of the records that DomainBed has published",
    (
        "tests/algorithms/test_penalties.py",
        "NEED_TWO_IMAGES",
    ): "that they refuse a batch of one image is what is tested",
    ("tests/analysis/test_interference.py", "UNLIKE_ERM"): "a choice of one algorithm of each kind",
}
"""Lists of more names that are data, by file and variable, and why they are not the registries'."""


def lists(folder: str) -> Iterator[tuple[str, str, int, list[str]]]:
    """Every list, tuple or set that is written out: its file, its variable, its line and its strings."""
    for path in python_files(folder):
        variables = {
            node.value: node.targets[0].id
            for node in ast.walk(tree(path))
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.List | ast.Tuple | ast.Set):
                strings = [e.value for e in node.elts if isinstance(e, ast.Constant) and isinstance(e.value, str)]
                yield where(path), variables.get(node, ""), node.lineno, strings


def test_lists_of_names_come_from_the_registries():
    known = (set(ALGORITHMS), set(known_backbones()))
    written, met = [], set()
    for folder in ("tests", "bench"):
        for file, variable, line, strings in lists(folder):
            if max(len(names.intersection(strings)) for names in known) <= MOST:
                continue
            if (file, variable) in CHOSEN:
                met.add((file, variable))
            else:
                written.append(f"{file}:{line}")
    advice = "take these names from ALGORITHMS or known_backbones(), or say in CHOSEN why they are data"
    assert not written, "\n".join([advice, *written])
    assert met == CHOSEN.keys(), "CHOSEN names lists that do not exist"
