"""TensorBoard: event files in the run's folder, one point per record and number.

``tensorboard --logdir OUT`` shows every run of a sweep. A resumed run adds a file that tells TensorBoard to drop what
was logged after the last record.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfmoe_dg.training.reporters.loggers import Logger, last_step, need_package, scalars

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from sfmoe_dg.training.prepare import Setup

FOLDER = "tensorboard"


class TensorBoard(Logger):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._writer: SummaryWriter | None = None

    @classmethod
    def require(cls) -> None:
        need_package("tensorboard", "tensorboard")

    def started(self, setup: Setup, step: int, notice: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = self.folder / FOLDER
        purge_step = last_step(self.folder) + 1 if path.exists() else None
        self._writer = SummaryWriter(str(path), purge_step=purge_step)
        if purge_step is None:
            lines = [str(setup.spec), *(f"{name}: {value}" for name, value in sorted(setup.hparams.items()))]
            # Markdown: two blanks before a line break keep it.
            self._writer.add_text("run", "  \n".join(lines))

    def evaluated(self, record: dict[str, Any]) -> None:
        assert self._writer is not None
        for name, value in scalars(record).items():
            self._writer.add_scalar(name, value, record["step"])
        # If the run is killed, TensorBoard must show all records that are in the folder.
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
