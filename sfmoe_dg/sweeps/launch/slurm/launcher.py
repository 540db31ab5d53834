"""Run a study on a Slurm cluster, as job arrays that are submitted through submitit.

The files of ``launch.slurm.jobs`` and Slurm's queue show which runs are queued; the runs' folders show which are done.
submitit's own job states are not used, because it has none on clusters without accounting.
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
        """Submit the runs that are not done, owned or queued. With ``settings.wait``, stay until all have ended."""
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
            # In parts, since the length of a command line is limited.
            jobs_file.ask(["scancel", *tasks[first : first + 500]])
        return tasks


def _check(study: Study, settings: SlurmSettings) -> None:
    """Refuse mistakes here that would otherwise appear only on the compute nodes.

    Raises:
        UserError: if submitit is missing, or the folder or the times cannot work.
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
            "runs would receive the signal to save before they begin; give them more time"
        )
