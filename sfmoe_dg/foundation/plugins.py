"""Import plug-ins: third-party modules that register algorithms, data sets and more when they are imported.

``domainbed=DIR`` is not a module: it registers the algorithms of a DomainBed checkout. Installed packages with entry
points are found without a plug-in (see ``registry.py`` and docs/extending.md).
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.registry import Registry, what_happened

KINDS: Registry[Callable[[str], object]] = Registry("kind of plug-in")
"""Functions that are called with ARGUMENT for a plug-in ``KIND=ARGUMENT``."""
KINDS.register("domainbed", "sfmoe_dg.compat.domainbed.plugin:register_algorithms")


def load_plugins(plugins: Sequence[str]) -> None:
    """Import every plug-in once: by its path if it ends in .py, by the name of its module otherwise.

    Raises:
        UserError: if a plug-in does not exist or raises; the message says what it raised, and where.
    """
    for plugin in plugins:
        kind, _, argument = plugin.partition("=")
        if kind in KINDS:
            KINDS.load(kind)(argument)
            continue
        if not plugin.endswith(".py"):
            _load(plugin, partial(importlib.import_module, plugin))
            continue
        path = Path(plugin).resolve()
        if not path.is_file():
            raise UserError(f"plugin file {plugin} does not exist; give a module's name or a path that ends in .py")
        _load(plugin, partial(_import_file, path))


def _load(plugin: str, load: Callable[[], object]) -> None:
    try:
        load()
    except UserError:
        raise
    except Exception as error:  # third-party code may raise anything
        raise UserError(f"plugin {plugin!r} cannot be imported: {what_happened(error)}") from error


def _import_file(path: Path) -> None:
    name = f"sfmoe_dg_plugin_{path.stem}"
    if name in sys.modules:
        if sys.modules[name].__file__ != str(path):
            raise UserError(f"plugins {sys.modules[name].__file__} and {path} have the same name; rename one of them")
        return
    module_spec = importlib.util.spec_from_file_location(name, path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module
    try:
        module_spec.loader.exec_module(module)
    except BaseException:
        # Like Python, forget a module whose execution has failed.
        del sys.modules[name]
        raise
