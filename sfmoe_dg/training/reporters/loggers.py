"""Loggers show a run's records in other programs: one file per logger, one line here.

Another package adds one through an entry point in the group ``sfmoe_dg.loggers``, whose name is the logger's and whose
object is a class derived from :class:`Logger`. Loggers change no record.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.registry import Registry
from sfmoe_dg.runs.folder import RunFolder
from sfmoe_dg.training.reporters.reporter import Reporter


class Logger(Reporter):
    """A reporter that writes a run's records for another program.

    A resumed run is started again with the same folder: what was logged after its last record is void.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def require(cls) -> None:
        """
        Raises:
            UserError: if a package that it needs is missing.
        """

    def close(self) -> None:
        """The run is done, stopped or failed, perhaps before it was started."""


LOGGERS: Registry[type[Logger]] = Registry("logger", "sfmoe_dg.loggers")
"""Loggers by name. ``LOGGERS.register(name, cls)`` adds one.

Examples:
    >>> from sfmoe_dg import LOGGERS
    >>> sorted(LOGGERS.registered)
    ['tensorboard', 'wandb']
"""
LOGGERS.register("tensorboard", "sfmoe_dg.training.reporters.tensorboard:TensorBoard")
LOGGERS.register("wandb", "sfmoe_dg.training.reporters.wandb:WandB")


def check_loggers(names: Iterable[str]) -> None:
    """
    Raises:
        UserError: for a name that does not exist, and where a package is missing.
    """
    for name in names:
        LOGGERS.load(name).require()


def need_package(package: str, extra: str) -> None:
    """
    Raises:
        UserError: if the package is not installed; with the command that installs it.
    """
    try:
        importlib.import_module(package)
    except ModuleNotFoundError:
        raise UserError(f"logging to {extra} needs a package: pip install 'sfmoe-dg[{extra}]'") from None


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers in a record, by name, without its step."""
    return {name: float(value) for name, value in record.items() if _is_number(value) and name != "step"}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def last_step(folder: Path) -> int:
    """The step of a folder's last record, -1 without any."""
    path = RunFolder(folder).results
    lines = path.read_bytes().splitlines() if path.exists() else []
    return int(json.loads(lines[-1])["step"]) if lines else -1
