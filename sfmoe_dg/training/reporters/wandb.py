"""Weights & Biases: one W&B run per run, one row per record.

``wandb.json`` in the run's folder keeps the id of the W&B run, so that a run resumed on any machine continues the same
W&B run; W&B refuses a step that it already has. With ``WANDB_MODE=offline``, each start writes a folder below
``wandb/`` in the run's folder, for ``wandb sync``; a step that was repeated after a crash is then in two of them, with
the same values. W&B's other environment variables work too.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.files import read_json, write_atomic
from sfmoe_dg.training.reporters.loggers import Logger, need_package, scalars

if TYPE_CHECKING:
    from sfmoe_dg.training.prepare import Setup

ID_FILE = "wandb.json"
PROJECT = "sfmoe-dg"


class WandB(Logger):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._run: Any = None

    @classmethod
    def require(cls) -> None:
        need_package("wandb", "wandb")

    def started(self, setup: Setup, step: int, notice: str) -> None:
        """
        Raises:
            UserError: if W&B does not let this process log, most often because nobody is logged in.
        """
        import wandb

        spec = setup.spec
        try:
            self._run = wandb.init(
                project=PROJECT,
                id=_run_id(self.folder),
                resume="allow",
                dir=str(self.folder),
                name=str(spec),
                group=f"{spec.dataset} {spec.algorithm}",
                config={"args": spec.args(str(self.folder)), "hparams": setup.hparams},
                # W&B shall not record the terminal or the source tree.
                settings=wandb.Settings(console="off", silent=True, disable_git=True, disable_code=True),
            )
        except wandb.errors.Error as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"W&B cannot be used ({reason}); run wandb login, or set WANDB_MODE=offline") from None

    def evaluated(self, record: dict[str, Any]) -> None:
        self._run.log(scalars(record), step=record["step"])

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()


def _run_id(folder: Path) -> str:
    path = folder / ID_FILE
    if not path.exists():
        write_atomic(path, json.dumps({"id": secrets.token_hex(8)}) + "\n")
    return str(read_json(path)["id"])
