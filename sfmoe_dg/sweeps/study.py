"""Read a study from its TOML file and check every key and value."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sfmoe_dg.algorithms.registry import ALGORITHMS
from sfmoe_dg.data.catalog import CATALOG
from sfmoe_dg.foundation.checked import from_mapping, same_as, value
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.plugins import load_plugins
from sfmoe_dg.foundation.registry import unknown
from sfmoe_dg.runs.spec import Options, RunSpec
from sfmoe_dg.sweeps.launch.launcher import check_launch

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def _is_name(value: str) -> bool:
    return value.isprintable() and value.strip(".") != "" and not set(value) & set("/\\")


def _are_names(value: Sequence[str]) -> bool:
    return all(value) and len(set(value)) == len(value)


def _are_test_sets(value: Sequence[Sequence[int]]) -> bool:
    each_once = all(envs and len(set(envs)) == len(envs) for envs in value)
    return each_once and 0 < len(value) == len({tuple(sorted(envs)) for envs in value})


def _is_json(value: Any) -> bool:
    """Whether JSON can hold a value. TOML also has dates and times, which JSON does not have."""
    if isinstance(value, Mapping):
        return all(_is_json(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return all(_is_json(item) for item in value)
    return value is None or isinstance(value, (str, int, float, bool))


_NAMES = (lambda names: bool(names) and _are_names(names), "a list of names, at least one, none of them twice")


@dataclass(frozen=True)
class SweepSpec:
    """One study. Names and defaults are those of the flags of DomainBed's sweep.

    ``hparams`` overrides hyper-parameters of every run, ``overrides[algorithm]`` those of one algorithm's runs.
    ``test_envs`` lists the test sets. Without it, every domain is held out once and, unless ``single_test_envs``, every
    pair of domains too. ``launch`` holds the settings for launchers (:func:`launcher.make_settings`).
    """

    name: str = value(shape=(_is_name, "a part of a file's name, without slashes"))
    datasets: tuple[str, ...] = value(shape=_NAMES)
    algorithms: tuple[str, ...] = value(shape=_NAMES)
    task: str = same_as(RunSpec, "task")
    n_trials: int = value(3, low=1)
    n_hparams_from: int = value(0, low=0)
    n_hparams: int = value(20, low=1)
    steps: int | None = same_as(RunSpec, "steps")
    checkpoint_freq: int | None = same_as(RunSpec, "checkpoint_freq")
    holdout_fraction: float = same_as(RunSpec, "holdout_fraction")
    uda_holdout_fraction: float = same_as(RunSpec, "uda_holdout_fraction")
    single_test_envs: bool = value(False)
    skip_model_save: bool = same_as(RunSpec, "skip_model_save")
    test_envs: tuple[tuple[int, ...], ...] | None = value(
        None, shape=(_are_test_sets, "a list of lists of domain numbers, such as [[0], [0, 1]], nothing twice")
    )
    plugins: tuple[str, ...] = value((), shape=(_are_names, "a list of modules or files, none of them twice"))
    hparams: Mapping[str, Any] = value(default_factory=dict, shape=(_is_json, "a table of what JSON can hold"))
    overrides: Mapping[str, Mapping[str, Any]] = value(
        default_factory=dict, shape=(_is_json, "a table of tables of what JSON can hold, one per algorithm")
    )
    options: Options = value(default_factory=Options)
    launch: Mapping[str, Any] = value(default_factory=dict)

    def hparams_json(self, algorithm: str) -> str | None:
        """The overrides of one algorithm's runs as JSON, for ``RunSpec.hparams``; None without overrides."""
        merged = dict(self.hparams) | dict(self.overrides.get(algorithm, {}))
        return json.dumps(merged, sort_keys=True) if merged else None


def read_spec(path: str | Path) -> SweepSpec:
    """Read a study from its TOML file and check every key and value.

    Raises:
        UserError: if the file or a value in it is wrong; the message names the file and the key, and the
            nearest known names for an unknown one.

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
    except ValueError:  # Python reads at most 4300 digits
        raise UserError(f"sweep file {path} has a number of too many digits; write a smaller one") from None
    values.setdefault("name", path.stem)
    return make_spec(values, str(path))


def make_spec(values: Mapping[str, Any], where: str) -> SweepSpec:
    """Make a study from plain values, as read from TOML or JSON, and load its plug-ins.

    Raises:
        UserError: if a key or value is wrong; the message names it and ``where`` it is.
    """
    spec = from_mapping(SweepSpec, values, where)
    # Plug-ins add data sets, algorithms and launchers, so they are loaded before names are looked up.
    load_plugins(spec.plugins)
    _check_names(spec, where)
    return replace(spec, launch=check_launch(spec.launch, f"[launch] of {where}"))


def _check_names(spec: SweepSpec, where: str) -> None:
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
    """Check before any launch that every algorithm has the overridden hyper-parameters and allows their values.

    This imports torch.

    Raises:
        UserError: if an override is wrong; the message names the hyper-parameter.
    """
    from sfmoe_dg.algorithms.registry import hparam_table
    from sfmoe_dg.runs.hparams import resolve

    for dataset in spec.datasets:
        for algorithm in spec.algorithms:
            table = hparam_table(algorithm, dataset)
            where = f"the sweep's hparams for {algorithm} on {dataset}"
            overrides = dict(spec.hparams) | dict(spec.overrides.get(algorithm, {}))
            ALGORITHMS.load(algorithm).check_hparams(resolve(table, 0, 0, overrides, where=where), where)
