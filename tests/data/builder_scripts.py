"""The scripts in ``datasets/`` as modules, for the tests of this folder."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path

from sfmoe_dg.data.builders.recipe import Recipe
from sfmoe_dg.data.builders.script import main

FOLDER = Path(__file__).parents[2] / "datasets"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "cub_dg")  # CUB-DG is made, not downloaded


@lru_cache
def recipe(name: str) -> Recipe:
    spec = importlib.util.spec_from_file_location(f"datasets_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Recipe = module.RECIPE
    return found


def run(name: str, *argv: object) -> tuple[int, list[str]]:
    """Run a script; returns its exit code and its output."""
    said: list[str] = []
    code = main(recipe(name), [str(arg) for arg in argv], say=said.append)
    return code, said
