"""The examples in the docstrings of algorithms, runs and sweeps give the shown results."""

import doctest
import importlib
import pkgutil

import pytest

import sfmoe_dg.algorithms
import sfmoe_dg.runs
import sfmoe_dg.sweeps


def modules_with_examples():
    rooms = (sfmoe_dg.algorithms, sfmoe_dg.runs, sfmoe_dg.sweeps)
    names = [m.name for room in rooms for m in pkgutil.walk_packages(room.__path__, f"{room.__name__}.")]
    modules = [importlib.import_module(name) for name in names]
    return [m for m in modules if any(test.examples for test in doctest.DocTestFinder(exclude_empty=True).find(m))]


@pytest.mark.parametrize("module", modules_with_examples(), ids=lambda module: module.__name__)
def test_examples(module):
    assert doctest.testmod(module).failed == 0
