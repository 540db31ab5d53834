"""A study as a TOML file: names and counts, every key and value checked."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sfmoe_dg.algorithms.registry import ALGORITHMS
from sfmoe_dg.data.catalog import CATALOG
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.plugins import load_plugins
from sfmoe_dg.foundation.registry import unknown
from sfmoe_dg.runs.spec import Options, make_options
from sfmoe_dg.sweeps.launch.settings import LaunchSettings, make_launch

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class SweepSpec:
    """One study. The names and defaults are those of upstream's sweep flags.

    ``hparams`` overrides hold for every run, ``overrides[algorithm]`` for the runs of one algorithm.
    ``test_envs`` lists test sets explicitly; otherwise every domain is held out once, and every pair too unless
    ``single_test_envs``.
    """

    name: str
    datasets: tuple[str, ...]
    algorithms: tuple[str, ...]
    task: str = "domain_generalization"
    n_trials: int = 3
    n_hparams_from: int = 0
    n_hparams: int = 20
    steps: int | None = None
    checkpoint_freq: int | None = None
    holdout_fraction: float = 0.2
    uda_holdout_fraction: float = 0
    single_test_envs: bool = False
    skip_model_save: bool = False
    test_envs: tuple[tuple[int, ...], ...] | None = None
    plugins: tuple[str, ...] = ()
    hparams: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    options: Options = field(default_factory=Options)
    launch: LaunchSettings = field(default_factory=LaunchSettings)

    def hparams_json(self, algorithm: str) -> str | None:
        """The ``--hparams`` of one algorithm's runs."""
        merged = dict(self.hparams) | dict(self.overrides.get(algorithm, {}))
        return json.dumps(merged, sort_keys=True) if merged else None


def read_spec(path: str | Path) -> SweepSpec:
    """A study from its TOML file, every key and value checked.

    Raises:
        UserError: naming the file and the key, with the nearest known names.

    Examples:
        >>> from sfmoe_dg import read_study
        >>> read_study("sweeps/quickstart.toml").algorithms
        ('ERM', 'CORAL', 'SFMoE')
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            values = tomllib.load(file)
    except FileNotFoundError:
        known = ", ".join(sorted(str(p) for p in path.parent.glob("*.toml"))) or "none"
        raise UserError(f"sweep file {path} does not exist; TOML files in that folder: {known}") from None
    except OSError as error:
        raise UserError(f"sweep file {path} cannot be read ({error.strerror}); give a study's .toml file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"sweep file {path} is not UTF-8 text ({error.reason}); save it as such") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"sweep file {path} is not valid TOML: {error}") from None
    except RecursionError:
        raise UserError(f"sweep file {path} is nested too deep; a study has lists of lists and no more") from None
    except ValueError:  # what Python reads ends at 4300 digits
        raise UserError(f"sweep file {path} has a number of too many digits; write a smaller one") from None
    values.setdefault("name", path.stem)
    return make_spec(values, str(path))


def make_spec(values: Mapping[str, Any], where: str) -> SweepSpec:
    """A study from plain values, as read from TOML or JSON."""
    values = dict(values)
    for key in ("datasets", "algorithms"):
        if not values.get(key):
            raise UserError(f"{where} lacks the key {key!r}: a list of at least one name")
    for key, value in values.items():
        _check_key(key, value, where)
    for key in ("datasets", "algorithms", "plugins"):
        values[key] = tuple(values.get(key, ()))
    if values.get("test_envs") is not None:
        values["test_envs"] = tuple(tuple(envs) for envs in values["test_envs"])
    values["options"] = make_options(values.get("options", {}), f"[options] of {where}")
    values["launch"] = make_launch(values.get("launch", {}), f"[launch] of {where}")
    spec = SweepSpec(**values)
    _check_names(spec, where)
    return spec


_KINDS: dict[str, tuple[type, str]] = {
    "name": (str, "a part of a file's name, without slashes"),
    "task": (str, "a string"),
    "datasets": (list, "a list of names, none of them twice"),
    "algorithms": (list, "a list of names, none of them twice"),
    "plugins": (list, "a list of modules or files"),
    "test_envs": (list, "a list of lists of domain numbers, such as [[0], [0, 1]], nothing twice"),
    "n_trials": (int, "a whole number"),
    "n_hparams_from": (int, "a whole number"),
    "n_hparams": (int, "a whole number"),
    "steps": (int, "a whole number"),
    "checkpoint_freq": (int, "a whole number"),
    "holdout_fraction": (float, "a number"),
    "uda_holdout_fraction": (float, "a number"),
    "single_test_envs": (bool, "true or false"),
    "skip_model_save": (bool, "true or false"),
    "hparams": (dict, "a table of what JSON can hold"),
    "overrides": (dict, "a table of tables of what JSON can hold, one per algorithm"),
    "options": (dict, "a table"),
    "launch": (dict, "a table"),
}


def _names(value: list[Any]) -> bool:
    return all(isinstance(item, str) and item for item in value) and len(set(value)) == len(value)


def _test_sets(value: list[Any]) -> bool:
    whole = all(isinstance(envs, list) and envs and all(type(env) is int for env in envs) for envs in value)
    return whole and all(len(set(envs)) == len(envs) for envs in [*value, [tuple(sorted(envs)) for envs in value]])


def _is_json(value: Any) -> bool:
    """TOML has dates, which no hyper-parameter is."""
    if isinstance(value, dict):
        return all(_is_json(item) for item in value.values())
    if isinstance(value, list):
        return all(_is_json(item) for item in value)
    return value is None or isinstance(value, (str, int, float, bool))


_SHAPES: dict[str, Callable[[Any], bool]] = {
    "name": lambda value: value.isprintable() and value.strip(".") != "" and not set(value) & set("/\\"),
    "datasets": _names,
    "algorithms": _names,
    "plugins": _names,
    "test_envs": lambda value: bool(value) and _test_sets(value),
    "hparams": _is_json,
    "overrides": lambda value: all(isinstance(table, dict) for table in value.values()) and _is_json(value),
}
"""What a value of the right type must be besides."""


def _check_key(key: str, value: Any, where: str) -> None:
    if key not in _KINDS:
        raise unknown("key", key, _KINDS, f" in {where}")
    kind, words = _KINDS[key]
    optional = key in ("steps", "checkpoint_freq", "test_envs")
    ok = isinstance(value, (kind, int) if kind is float else kind) and (kind is bool or not isinstance(value, bool))
    if key in _SHAPES and ok:
        ok = _SHAPES[key](value)
    if not (ok or (optional and value is None)):
        raise UserError(f"key {key!r} in {where} is {value!r}; it must be {words}")
    if kind is int and value is not None and value < (0 if key == "n_hparams_from" else 1):
        raise UserError(f"key {key!r} in {where} is {value}; it must be at least 1")


def _check_names(spec: SweepSpec, where: str) -> None:
    load_plugins(spec.plugins)
    for dataset in spec.datasets:
        if dataset not in CATALOG:
            raise unknown("data set", dataset, CATALOG, f" in {where}")
    for algorithm in [*spec.algorithms, *spec.overrides]:
        if algorithm not in ALGORITHMS:
            raise unknown("algorithm", algorithm, ALGORITHMS, f" in {where}")
    for algorithm in spec.overrides:
        if algorithm not in spec.algorithms:
            raise UserError(
                f"[overrides.{algorithm}] of {where} is for nothing: it is not in the sweep, whose algorithms are "
                f"{', '.join(spec.algorithms)}"
            )
    if spec.n_hparams <= spec.n_hparams_from:
        raise UserError(
            f"{where} asks for hparams seeds from {spec.n_hparams_from} up to but without {spec.n_hparams}: "
            "that is none; n_hparams must be larger than n_hparams_from"
        )


def check_hparams(spec: SweepSpec) -> None:
    """Refuse overrides that an algorithm does not have or cannot train with, before any launch (imports torch).

    Raises:
        UserError: naming the hyper-parameter.
    """
    from sfmoe_dg.algorithms.registry import hparam_table
    from sfmoe_dg.runs.hparams import resolve

    for dataset in spec.datasets:
        for algorithm in spec.algorithms:
            table = hparam_table(algorithm, dataset)
            where = f"the sweep's hparams for {algorithm} on {dataset}"
            overrides = dict(spec.hparams) | dict(spec.overrides.get(algorithm, {}))
            ALGORITHMS.load(algorithm).check_hparams(resolve(table, 0, 0, overrides, where=where), where)
