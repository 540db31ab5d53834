"""Submit runs to Slurm as job arrays, through submitit."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.runs.folder import RunFolder
from sfmoe_dg.runs.lease import Lease, Owned, acquire
from sfmoe_dg.sweeps.launch.launcher import Job, Listener, Study
from sfmoe_dg.sweeps.launch.slurm import jobs as jobs_file
from sfmoe_dg.sweeps.launch.slurm.settings import SlurmSettings
from sfmoe_dg.sweeps.launch.task import Task

NO_CAP = 1_000_000
"""How often submitit may requeue a task at its time limit. Preemptions count too, so the number must not run out."""
# Parts of the messages with which Slurm refuses an array for its size.
REFUSED_FOR_SIZE = ("SubmitJobLimit", "violates accounting/QOS policy", "submit limit", "temporarily unable to accept")
PLAN_SECONDS = 3600.0
"""How long to wait for another sweep that is submitting in the same folder."""


def submit(study: Study, settings: SlurmSettings, listener: Listener) -> set[RunFolder]:
    """Submit every run that is to do; returns the folders of the runs that the cluster accepted.

    Sweeps that submit in the same folder at the same time take turns, so that none submits a run twice.
    """
    with _turn(study.output_dir / jobs_file.FOLDER, listener):
        jobs = [study.job(state) for state in study.states() if state.is_to_do]
        per_task = settings.runs_per_task
        tasks = [jobs[first : first + per_task] for first in range(0, len(jobs), per_task)]
        taken = _submit_tasks(study, tasks, settings, listener) if tasks else 0
    if taken < len(tasks):
        listener.say(
            f"the cluster takes no more than {taken} of {len(tasks)} tasks now; "
            + ("the rest follows as it gets through" if settings.wait else "start the same command later for the rest")
        )
    return {job.folder for task in tasks[:taken] for job in task}


def _turn(folder: Path, listener: Listener) -> Lease:
    deadline, announced = time.monotonic() + PLAN_SECONDS, False
    while True:
        try:
            return acquire(folder)
        except Owned as error:
            if time.monotonic() > deadline:
                raise
            if not announced:
                listener.say(f"another sweep submits in this folder ({error.owner}); waiting for it")
                announced = True
            time.sleep(1)


def _submit_tasks(study: Study, tasks: list[list[Job]], settings: SlurmSettings, listener: Listener) -> int:
    """Submit arrays of at most MaxArraySize tasks until the cluster accepts no more; returns how many it accepted."""
    cluster = jobs_file.settings_of_cluster()
    # Task numbers must be less than MaxArraySize, and they begin at 0.
    largest = max(1, int(cluster["MaxArraySize"]))
    room = jobs_file.room_in_queue(cluster, settings.account, settings.qos)
    taken = 0
    while taken < len(tasks) and room > 0:
        size = min(largest, room, len(tasks) - taken)
        array = _Array(study, settings, tasks[taken : taken + size])
        try:
            number = array.submit()
        except _TooMany as refusal:
            # The cluster has a limit that it does not report, such as a group's: try half the size. Slurm uses the same
            # words for a time limit or a size that it never accepts, so an empty queue and size 1 end the search.
            if size == 1 and jobs_file.jobs_in_queue()[0] == 0:
                raise UserError(str(refusal)) from None
            room = size // 2
            continue
        listener.say(f"submitted Slurm job {number}: {size} tasks with {sum(map(len, array.tasks))} runs")
        taken, room = taken + size, room - size
    return taken


class _TooMany(Exception):
    """Slurm refuses an array for its size."""


@dataclass(frozen=True)
class _Array:
    """One array of tasks, before its submission."""

    study: Study
    settings: SlurmSettings
    tasks: Sequence[Sequence[Job]]

    def submit(self) -> str:
        """Submit the array; returns its job number.

        Raises:
            _TooMany: if the array is too large at the moment.
            UserError: if Slurm refuses it for another reason; the message repeats Slurm's words.
        """
        import submitit
        from submitit.core.utils import FailedJobError

        folder = (self.study.output_dir / jobs_file.FOLDER).absolute()
        mark = secrets.token_hex(4)
        path, name = folder / f"slurm-{mark}.json", f"sfmoe-dg-{mark}"
        content = self._content(name)
        executor = submitit.SlurmExecutor(folder / "logs", max_num_timeout=NO_CAP)
        executor.update_parameters(**self._parameters(name))
        # Saved before the submission: if this process dies in between, the jobs can still be recognized by their name.
        jobs_file.save_submission(path, content)
        try:
            with _outside_of_jobs(), executor.batch():
                submitted = [executor.submit(Task(str(path), index)) for index in range(len(self.tasks))]
        except (FailedJobError, subprocess.CalledProcessError) as error:
            path.unlink()
            raise _refusal(str(error)) from None
        number = str(submitted[0].job_id).partition("_")[0]
        jobs_file.save_submission(path, content | {"job": number})
        return number

    def _content(self, name: str) -> dict[str, Any]:
        tasks = [
            [{"title": job.title, "command": job.command, "folder": str(job.folder)} for job in task]
            for task in self.tasks
        ]
        settings = self.settings
        return {
            "name": name,
            "job": None,
            "cwd": os.getcwd(),
            "places": settings.side_by_side,
            "threads": settings.threads,
            "gpus": settings.gpus,
            "save_seconds": settings.save_seconds,
            "time_limit": 60 * settings.minutes,
            "tasks": tasks,
        }

    def _parameters(self, name: str) -> dict[str, Any]:
        """The parameters for submitit, without those that are None."""
        settings = self.settings
        # Since Slurm 22.05, the steps of a job do not inherit its --cpus-per-task.
        srun = [f"--cpus-per-task={settings.cpus}"] if settings.cpus is not None else []
        further: dict[str, Any] = {"requeue": True} | dict(settings.sbatch)
        parameters = {
            "job_name": name,
            "time": settings.minutes,
            "partition": settings.partition,
            "account": settings.account,
            "qos": settings.qos,
            "constraint": settings.constraint,
            "gpus_per_node": settings.gpus,
            "cpus_per_task": settings.cpus,
            "mem": settings.memory,
            "array_parallelism": settings.array_parallelism or len(self.tasks),
            "dependency": self._dependency(),
            "signal_delay_s": settings.save_seconds,
            "setup": list(settings.setup) or None,
            "srun_args": srun,
            "additional_parameters": further,
        }
        return {key: value for key, value in parameters.items() if value is not None}

    def _dependency(self) -> str | None:
        """With ``array_parallelism``, a new array waits for earlier ones: Slurm limits each array separately."""
        if self.settings.array_parallelism is None:
            return None
        tasks = jobs_file.tasks_in_queue(self.study.output_dir).values()
        numbers = sorted({task.partition("_")[0] for task in tasks})
        return f"afterany:{':'.join(numbers)}" if numbers else None


@contextlib.contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Hide the Slurm job that this process may run in; submitted jobs would inherit its GPUs, CPUs and ranks."""
    from submitit.helpers import clean_env

    if "SLURM_JOB_ID" not in os.environ:
        yield
        return
    cluster = {name: os.environ[name] for name in ("SLURM_CONF", "SLURM_JWT") if name in os.environ}
    with clean_env():
        os.environ.update(cluster)
        yield


def _refusal(text: str) -> Exception:
    lines = [line for line in text.splitlines() if line.startswith("sbatch: error:")] or text.splitlines()[-1:]
    sentence = f"Slurm refused the jobs: {'; '.join(line.removeprefix('sbatch: error: ') for line in lines)}"
    return _TooMany(sentence) if any(words in text for words in REFUSED_FOR_SIZE) else UserError(sentence)
