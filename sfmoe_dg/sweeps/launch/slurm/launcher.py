"""Run a study on a Slurm cluster, as job arrays that are submitted through submitit.

What is queued is known from the files of ``launch.slurm_jobs`` and from Slurm's queue; what is done, from the runs'
folders. submitit's own idea of a job's state is not used: without accounting it has none.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.sweeps.launch.launcher import Listener, Study
from sfmoe_dg.sweeps.launch.slurm import jobs as jobs_file
from sfmoe_dg.sweeps.launch.slurm.settings import SlurmSettings
from sfmoe_dg.sweeps.launch.slurm.stay import Supervision
from sfmoe_dg.sweeps.launch.slurm.submit import submit


class Slurm:
    """``sbatch`` must work on this machine, and the output folder must lie on the cluster's shared file system."""

    settings = SlurmSettings

    def launch(self, study: Study, settings: SlurmSettings, listener: Listener) -> bool:
        """Submit what is neither done nor owned nor queued; with ``settings.wait``, stay until all has ended."""
        _check(study, settings)
        if settings.wait:
            Supervision(study, settings, listener).run()
        else:
            submit(study, settings, listener)
        return not any(state.is_open for state in study.states())

    def queued(self, output_dir: Path) -> dict[str, str]:
        return jobs_file.queued_runs(output_dir)

    def cancel(self, output_dir: Path, runs: Collection[str] | None = None) -> list[str]:
        queued = jobs_file.queued_runs(output_dir)
        tasks = sorted({task for run, task in queued.items() if runs is None or run in runs})
        for first in range(0, len(tasks), 500):
            jobs_file.ask(["scancel", *tasks[first : first + 500]])
        return tasks


def _check(study: Study, settings: SlurmSettings) -> None:
    """
    Raises:
        UserError: for what would only show on the compute nodes.
    """
    try:
        import submitit  # noqa: F401
    except ModuleNotFoundError:
        raise UserError("the launcher slurm needs submitit: pip install 'sfmoe-dg[slurm]'") from None
    if "%" in str(study.output_dir.absolute()):
        raise UserError(f"Slurm gives % a meaning in paths; choose another folder than {study.output_dir}")
    if settings.save_seconds >= 60 * settings.minutes:
        raise UserError(
            f"save_seconds is {settings.save_seconds} and the time limit is {settings.minutes} minutes: "
            "runs would be told to save before they begin; give them more time"
        )
