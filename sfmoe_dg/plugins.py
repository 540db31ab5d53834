"""Third-party modules that register more algorithms, backbones or data sets when they are imported.

``domainbed=DIR`` is not a module: it registers the algorithms of a DomainBed checkout.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from sfmoe_dg.compat.domainbed import PLUGIN, register_algorithms
from sfmoe_dg.errors import UserError


def load_plugins(plugins: Sequence[str]) -> None:
    """Import modules (by name, or by path if it ends in .py) that register more algorithms or backbones.

    Raises:
        UserError: for one that does not exist.
    """
    for plugin in plugins:
        if plugin.startswith(PLUGIN):
            register_algorithms(plugin[len(PLUGIN) :])
            continue
        if not plugin.endswith(".py"):
            try:
                importlib.import_module(plugin)
            except ModuleNotFoundError as error:
                raise UserError(f"plugin {plugin!r} cannot be imported: {error}") from None
            continue
        path = Path(plugin).resolve()
        name = f"sfmoe_dg_plugin_{path.stem}"
        if name in sys.modules:
            continue
        if not path.is_file():
            raise UserError(f"plugin file {plugin} does not exist; give a module's name or a path that ends in .py")
        module_spec = importlib.util.spec_from_file_location(name, path)
        assert module_spec is not None
        assert module_spec.loader is not None
        module = importlib.util.module_from_spec(module_spec)
        sys.modules[name] = module
        module_spec.loader.exec_module(module)
