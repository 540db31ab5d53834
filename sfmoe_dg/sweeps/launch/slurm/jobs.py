"""The jobs that were submitted to Slurm for a folder of runs, and those still in the queue. Needs no submitit.

Every submission has a file ``launch/slurm-<id>.json``, which is written before the jobs are submitted. Its keys are
``name`` (the jobs' name in the queue), ``job`` (their number), ``cwd``, ``places`` (runs at a time), ``threads``,
``gpus``, ``save_seconds``, ``time_limit`` (seconds) and ``tasks``, a list of lists of runs with ``title``, ``command``
and ``folder``. The name finds the jobs even if the submitting process died before it received their number.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.files import read_json, write_atomic
from sfmoe_dg.foundation.slurm import parse_config
from sfmoe_dg.runs.folder import RunFolder

FOLDER = "launch"
NAMES_AT_ONCE = 1000
SINGLE = "N/A"
"""What squeue prints as the task number of a job that is not an array. Such a job of ours has one task, number 0."""


def submissions(output_dir: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The file and content of every submission, sorted by file name."""
    for path in sorted((output_dir / FOLDER).glob("slurm-*.json")):
        yield path, read_json(path)


def save_submission(path: Path, content: dict[str, Any]) -> None:
    write_atomic(path, json.dumps(content) + "\n")


def tasks_in_queue(output_dir: Path) -> dict[tuple[str, int], str]:
    """The waiting, running and ending tasks of this folder's submissions: (job name, task index) to Slurm's task id.

    The result is empty on a machine without Slurm, for example one to which the results were copied.

    Raises:
        UserError: if there are submissions and the queue does not answer.
    """
    if shutil.which("squeue") is None:
        return {}
    names = [content["name"] for _, content in submissions(output_dir) if not _has_ended(content, output_dir)]
    if not names:
        return {}
    tasks: dict[tuple[str, int], str] = {}
    for first in range(0, len(names), NAMES_AT_ONCE):
        chosen = ",".join(names[first : first + NAMES_AT_ONCE])
        for line in ask(["squeue", "--noheader", "--array", "--format=%j|%F|%K", f"--name={chosen}"]):
            name, job, index = line.strip().split("|")
            single = index == SINGLE
            tasks[name, 0 if single else int(index)] = job if single else f"{job}_{index}"
    return tasks


def _has_ended(content: dict[str, Any], output_dir: Path) -> bool:
    """Whether every run of a submission is done, so that the queue need not be asked about it."""
    folders = (output_dir / Path(run["folder"]).name for task in content["tasks"] for run in task)
    return all(RunFolder(folder).is_done for folder in folders)


def queued_runs(output_dir: Path) -> dict[str, str]:
    """The runs whose task is in the queue: run id to Slurm's id of the task."""
    in_queue = tasks_in_queue(output_dir)
    by_name: dict[str, list[int]] = defaultdict(list)
    for name, index in in_queue:
        by_name[name].append(index)
    queued: dict[str, str] = {}
    for _, content in submissions(output_dir) if in_queue else ():
        name = content["name"]
        for index in by_name[name]:
            queued |= {Path(run["folder"]).name: in_queue[name, index] for run in content["tasks"][index]}
    return queued


def ask(command: Sequence[str]) -> list[str]:
    """Run one of Slurm's commands and return the lines that it prints.

    Raises:
        UserError: if the command is missing, does not answer within a minute, or fails; the message repeats its last
            line.
    """
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        raise UserError(f"{command[0]} is not installed here; start this on a machine that can submit jobs") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"Slurm did not answer {command[0]} for a minute; try again later") from None
    if answer.returncode != 0:
        lines = answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"]
        raise UserError(f"Slurm refused {command[0]}: {lines[-1]}")
    return answer.stdout.splitlines()


def settings_of_cluster() -> dict[str, str]:
    """The names and values that ``scontrol show config`` prints."""
    return parse_config(ask(["scontrol", "show", "config"]))


def room_in_queue(cluster: dict[str, str], account: str | None, qos: str | None) -> int:
    """How many more tasks this user can submit now, according to the limits that the cluster reports.

    This is the smallest remainder of MaxJobCount and, on clusters with accounting, of the association's MaxSubmitJobs
    and the quality of service's MaxSubmitJobsPerUser. Limits of groups are not looked up; Slurm refuses a submission
    that exceeds them.
    """
    mine, everyone = jobs_in_queue()
    room = int(cluster["MaxJobCount"]) - everyone
    if cluster.get("AccountingStorageType", "").endswith("none"):
        return max(0, room)
    choice = [f"cluster={cluster['ClusterName']}", f"user={pwd.getpwuid(os.getuid()).pw_name}"]
    limits = _limits("associations", [*choice, *([f"account={account}"] if account else [])], "maxsubmitjobs")
    limits += _limits("qos", [f"name={qos}"], "maxsubmitjobsperuser") if qos else []
    return max(0, min([room, *(limit - mine for limit in limits)]))


def jobs_in_queue() -> tuple[int, int]:
    """The number of tasks in the queue: of this user, and of all users."""
    users = [line.strip() for line in ask(["squeue", "--noheader", "--array", "--format=%U"])]
    return users.count(str(os.getuid())), len(users)


def _limits(kind: str, choice: Sequence[str], name: str) -> list[int]:
    try:
        lines = ask(["sacctmgr", "--noheader", "--parsable2", "show", kind, *choice, f"format={name}"])
    except UserError:
        # Some clusters hide their limits from users. Slurm then refuses a submission that exceeds them.
        return []
    return [int(line) for line in lines if line.isdigit()]
