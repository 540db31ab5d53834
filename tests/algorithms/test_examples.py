"""The examples in the docstrings of algorithms and hyper-parameters give what they say."""

import doctest
import importlib
import pkgutil

import pytest

import sfmoe_dg.algorithms
from sfmoe_dg.runs import hparams


def modules_with_examples():
    names = [m.name for m in pkgutil.walk_packages(sfmoe_dg.algorithms.__path__, "sfmoe_dg.algorithms.")]
    modules = [importlib.import_module(name) for name in (*names, hparams.__name__)]
    return [m for m in modules if any(test.examples for test in doctest.DocTestFinder(exclude_empty=True).find(m))]


@pytest.mark.parametrize("module", modules_with_examples(), ids=lambda module: module.__name__)
def test_examples(module):
    assert doctest.testmod(module).failed == 0
