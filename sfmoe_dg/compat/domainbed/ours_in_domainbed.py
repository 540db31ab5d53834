"""Add our algorithms and data sets to DomainBed's modules, right after they are imported.

Only names that the checkout lacks are added: its own algorithms and data sets stay as they are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from sfmoe_dg.algorithms import registry as algorithms
from sfmoe_dg.algorithms.registry import ALGORITHMS
from sfmoe_dg.compat.domainbed.checkout import PACKAGE, algorithm_names, open_package
from sfmoe_dg.compat.domainbed.plugin import PREFIX
from sfmoe_dg.data.catalog import CATALOG

Add = Callable[[ModuleType], None]


def take_over(package: Path) -> None:
    """Import the checkout's package as ``domainbed``; our names are added to its modules when they are imported."""
    sys.modules.pop(PACKAGE, None)
    open_package(package)
    sys.meta_path.insert(0, AfterImport(additions(new_names(package))))


def new_names(package: Path) -> tuple[str, ...]:
    """Our algorithms that the checkout lacks."""
    theirs = algorithm_names(package)
    return tuple(name for name in ALGORITHMS.registered if name not in theirs and not name.startswith(PREFIX))


def additions(names: Sequence[str]) -> dict[str, Add]:
    """What is called with a module of DomainBed once it is imported, by the name of the module."""
    return {
        f"{PACKAGE}.algorithms": lambda module: add_algorithms(module, names),
        f"{PACKAGE}.hparams_registry": lambda module: add_hparams(module, names),
        f"{PACKAGE}.datasets": add_datasets,
    }


def add_algorithms(module: ModuleType, names: Sequence[str]) -> None:
    """Add our classes.

    Those that cannot train there are left out of ``ALGORITHMS``, the list that a sweep trains by default.
    """
    from sfmoe_dg.compat.domainbed.adapters import adapt, needs_our_trainer

    for name in names:
        setattr(module, name, adapt(name))
        if not needs_our_trainer(name):
            module.ALGORITHMS.append(name)


def add_hparams(module: ModuleType, names: Sequence[str]) -> None:
    """Use our defaults and draws for our names, and DomainBed's for all others."""
    theirs_default, theirs_random = module.default_hparams, module.random_hparams

    def default_hparams(algorithm: str, dataset: str) -> dict[str, Any]:
        if algorithm in names:
            return algorithms.default_hparams(algorithm, dataset)
        return theirs_default(algorithm, dataset)

    def random_hparams(algorithm: str, dataset: str, seed: int) -> dict[str, Any]:
        if algorithm in names:
            return algorithms.random_hparams(algorithm, dataset, seed)
        return theirs_random(algorithm, dataset, seed)

    vars(module).update(default_hparams=default_hparams, random_hparams=random_hparams)


def add_datasets(module: ModuleType) -> None:
    """Add our data sets that DomainBed lacks, except those whose domains are known only from the data."""
    from sfmoe_dg.compat.domainbed.adapters import dataset_class

    for name, entry in CATALOG.registered.items():
        if not hasattr(module, name) and entry.domains:
            setattr(module, name, dataset_class(entry, module.MultipleDomainDataset))
            module.DATASETS.append(name)


class AfterImport(MetaPathFinder):
    """Finds some modules as Python does, and calls a function with each once it has been executed."""

    def __init__(self, actions: Mapping[str, Add]) -> None:
        self._actions = actions

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        action = self._actions.get(fullname)
        spec = PathFinder.find_spec(fullname, path, target) if action else None
        if action is not None and spec is not None and spec.loader is not None:
            spec.loader = _Executing(spec.loader, action)
        return spec


class _Executing(Loader):
    def __init__(self, loader: Loader, action: Add) -> None:
        self._loader, self._action = loader, action

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._action(module)
