"""sfmoe_dg: domain generalization with sparse-fusion mixture-of-experts, DomainBed-compatible.

Importing the package is cheap: no torch, no network. See ARCHITECTURE.md for the way the parts fit together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from sfmoe_dg.training.model_file import TrainedRun

__version__ = "0.1.0"


def load(run_folder: str | Path) -> TrainedRun:
    """A finished run from its folder: the trained algorithm, its transform and the names of classes and domains.

    Raises:
        UserError: if the folder holds no model, or one that cannot be read.
    """
    from sfmoe_dg.training import model_file

    return model_file.load(run_folder)
