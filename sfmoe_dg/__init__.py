"""sfmoe_dg: domain generalization with sparse-fusion mixture-of-experts, DomainBed-compatible.

``__all__`` is what a researcher imports: ``from sfmoe_dg import RunSpec, load, train``. Each name is imported when it
is first used, so importing the package is cheap: no torch, no network. ARCHITECTURE.md says what lives in which room.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sfmoe_dg.foundation.version import __version__ as __version__

if TYPE_CHECKING:
    from sfmoe_dg.algorithms.base import Algorithm
    from sfmoe_dg.algorithms.erm import ERM
    from sfmoe_dg.algorithms.registry import ALGORITHMS, default_hparams, random_hparams
    from sfmoe_dg.analysis.registry import ANALYSES
    from sfmoe_dg.analysis.subject.observations import observe
    from sfmoe_dg.analysis.subject.opened import open_run
    from sfmoe_dg.data.build import build_dataset
    from sfmoe_dg.data.catalog import CATALOG
    from sfmoe_dg.data.facts.dataset_facts import DatasetFacts
    from sfmoe_dg.foundation.errors import UserError
    from sfmoe_dg.models.backbones import BACKBONES
    from sfmoe_dg.models.featurizer import Featurizer
    from sfmoe_dg.results.collect import collect
    from sfmoe_dg.results.read import load_records
    from sfmoe_dg.results.selection import SELECTION_METHODS, group_records, select
    from sfmoe_dg.results.tables import build_tables
    from sfmoe_dg.runs.execution import Execution
    from sfmoe_dg.runs.hparams import (
        Hparam,
        choice,
        int_log2_uniform,
        int_log10_uniform,
        int_uniform,
        log10_uniform,
        uniform,
    )
    from sfmoe_dg.runs.spec import Options, RunSpec
    from sfmoe_dg.sweeps.launch.launcher import LAUNCHERS
    from sfmoe_dg.sweeps.plan import plan
    from sfmoe_dg.sweeps.study import read_spec as read_study
    from sfmoe_dg.training.loop import train
    from sfmoe_dg.training.model_file import load
    from sfmoe_dg.training.reporters.loggers import LOGGERS

__all__ = [
    "ALGORITHMS",
    "ANALYSES",
    "BACKBONES",
    "CATALOG",
    "ERM",
    "LAUNCHERS",
    "LOGGERS",
    "SELECTION_METHODS",
    "Algorithm",
    "DatasetFacts",
    "Execution",
    "Featurizer",
    "Hparam",
    "Options",
    "RunSpec",
    "UserError",
    "build_dataset",
    "build_tables",
    "choice",
    "collect",
    "default_hparams",
    "group_records",
    "int_log2_uniform",
    "int_log10_uniform",
    "int_uniform",
    "load",
    "load_records",
    "log10_uniform",
    "observe",
    "open_run",
    "plan",
    "random_hparams",
    "read_study",
    "select",
    "train",
    "uniform",
]

_HOMES = {
    "ALGORITHMS": "sfmoe_dg.algorithms.registry:ALGORITHMS",
    "ANALYSES": "sfmoe_dg.analysis.registry:ANALYSES",
    "BACKBONES": "sfmoe_dg.models.backbones:BACKBONES",
    "CATALOG": "sfmoe_dg.data.catalog:CATALOG",
    "ERM": "sfmoe_dg.algorithms.erm:ERM",
    "LAUNCHERS": "sfmoe_dg.sweeps.launch.launcher:LAUNCHERS",
    "LOGGERS": "sfmoe_dg.training.reporters.loggers:LOGGERS",
    "SELECTION_METHODS": "sfmoe_dg.results.selection:SELECTION_METHODS",
    "Algorithm": "sfmoe_dg.algorithms.base:Algorithm",
    "DatasetFacts": "sfmoe_dg.data.facts.dataset_facts:DatasetFacts",
    "Execution": "sfmoe_dg.runs.execution:Execution",
    "Featurizer": "sfmoe_dg.models.featurizer:Featurizer",
    "Hparam": "sfmoe_dg.runs.hparams:Hparam",
    "Options": "sfmoe_dg.runs.spec:Options",
    "RunSpec": "sfmoe_dg.runs.spec:RunSpec",
    "UserError": "sfmoe_dg.foundation.errors:UserError",
    "build_dataset": "sfmoe_dg.data.build:build_dataset",
    "build_tables": "sfmoe_dg.results.tables:build_tables",
    "choice": "sfmoe_dg.runs.hparams:choice",
    "collect": "sfmoe_dg.results.collect:collect",
    "default_hparams": "sfmoe_dg.algorithms.registry:default_hparams",
    "group_records": "sfmoe_dg.results.selection:group_records",
    "int_log2_uniform": "sfmoe_dg.runs.hparams:int_log2_uniform",
    "int_log10_uniform": "sfmoe_dg.runs.hparams:int_log10_uniform",
    "int_uniform": "sfmoe_dg.runs.hparams:int_uniform",
    "load": "sfmoe_dg.training.model_file:load",
    "load_records": "sfmoe_dg.results.read:load_records",
    "log10_uniform": "sfmoe_dg.runs.hparams:log10_uniform",
    "observe": "sfmoe_dg.analysis.subject.observations:observe",
    "open_run": "sfmoe_dg.analysis.subject.opened:open_run",
    "plan": "sfmoe_dg.sweeps.plan:plan",
    "random_hparams": "sfmoe_dg.algorithms.registry:random_hparams",
    "read_study": "sfmoe_dg.sweeps.study:read_spec",
    "select": "sfmoe_dg.results.selection:select",
    "train": "sfmoe_dg.training.loop:train",
    "uniform": "sfmoe_dg.runs.hparams:uniform",
}
"""Where each name of ``__all__`` is defined, as ``module:attribute``; the imports above tell type checkers the same."""

if not TYPE_CHECKING:  # a type checker that saw this function would accept any name

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        module, _, attribute = _HOMES[name].partition(":")
        found = globals()[name] = getattr(import_module(module), attribute)
        return found


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
