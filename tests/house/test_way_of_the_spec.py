"""How long the way of a run's specification is, from the command line to the first batch, so that it does not grow.

A call of a function of the package is on the way if one of its arguments is the :class:`RunSpec` or its ``Options``,
the ``Execution``, the ``Setup`` that holds them, or the very object that is the value of one of their fields. Every
flag of the run below is given a string of its own, so that an equal string from elsewhere is another object; numbers
that Python keeps only once (small ones) and bools cannot be followed.

*Stops* are the modules of these calls in order, with calls one after another in one module counted once. *Returns*
are stops at a module that was visited before. Counted the same way, version 0.1.0 with its modules in one folder had 46
stops, 26 returns and entered ``prepare.py`` 10 times. A change that needs more should say why and raise the bound.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import fields
from itertools import groupby
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import sfmoe_dg
from sfmoe_dg.cli.main import main

ROOT = Path(sfmoe_dg.__file__).parent
CARRIERS = ("RunSpec", "Options", "Execution", "Setup")
FLAGS = """train --dataset StyledDigits --algorithm GroupDRO --test_envs 3 --data_dir nowhere --steps 1001
    --checkpoint_freq 777 --seed 12345 --trial_seed 54321 --hparams {"batch_size":4} --holdout_fraction 0.21
    --uda_holdout_fraction 0.31 --task domain_generalization --split identity --eval_transforms eval --precision bf16
    --on_bad_image skip --images tensors --eval fast --memory_format channels_last --device cpu --cache_dir cache
    --checkpoint_minutes 11.5"""


class Arrived(BaseException):
    """The first batch was asked for."""


class Way:
    """A profiler that notes the modules through which a specification goes."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self._followed: dict[int, Any] = {}

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(str(ROOT)) or code.co_name.startswith("<"):
            return
        module = Path(code.co_filename).relative_to(ROOT).as_posix()
        if (module, code.co_name) == ("data/batches/loaders.py", "batches"):
            raise Arrived
        values = [frame.f_locals.get(name) for name in parameters(code)]
        for value in values:
            if type(value).__name__ in CARRIERS[:3]:
                self._follow(value)
        if any(type(value).__name__ in CARRIERS or id(value) in self._followed for value in values):
            self.calls.append(module)

    def _follow(self, carrier: Any) -> None:
        for field in fields(carrier):
            value = getattr(carrier, field.name, None)  # none yet in a constructor
            given = isinstance(value, (str, tuple, float)) or (isinstance(value, int) and value > 300)
            if given and value is not field.default:
                self._followed[id(value)] = value

    @property
    def stops(self) -> list[str]:
        return [module for module, _ in groupby(self.calls)]


def parameters(code: CodeType) -> tuple[str, ...]:
    variadic = sum(bool(code.co_flags & flag) for flag in (0x04, 0x08))
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + variadic]


def walk(folder: Path) -> list[str]:
    way, before = Way(), sys.getprofile()
    words = ["".join(list(word)) for word in FLAGS.split()]
    sys.setprofile(way)
    try:
        main([*words, "--output_dir", str(folder)])
    except Arrived:
        pass
    finally:
        sys.setprofile(before)
    return way.stops


def test_the_way_of_the_specification_does_not_double_back(tmp_path: Path) -> None:
    stops = walk(tmp_path / "run")
    shown = " → ".join(stops)
    assert stops[0] == "runs/execution.py", shown
    assert "data/splits.py" in stops, shown
    assert len(stops) <= 36, shown
    assert len(stops) - len(set(stops)) <= 12, shown
    assert Counter(stops)["training/prepare.py"] <= 5, shown
