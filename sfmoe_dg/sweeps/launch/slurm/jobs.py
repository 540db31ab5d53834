"""What was submitted to Slurm for a folder of runs, and what of it is still in the queue. Needs no submitit.

Every submission is one file ``launch/slurm-<id>.json``, written before the submission: ``name`` (the jobs' name in the
queue, which finds them even if the submitting process died before it learned their number), ``job`` (the number),
``cwd``, ``places`` (runs side by side), ``threads``, ``gpus``, ``save_seconds``, ``time_limit`` (seconds) and
``tasks``, a list of lists of runs with ``title``, ``command`` and ``folder``.
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
"""What squeue prints for the task number of a job that is no array; ours then has one task, number 0."""


def submissions(output_dir: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The files of all submissions, in the order of their names."""
    for path in sorted((output_dir / FOLDER).glob("slurm-*.json")):
        yield path, read_json(path)


def save_submission(path: Path, content: dict[str, Any]) -> None:
    write_atomic(path, json.dumps(content) + "\n")


def tasks_in_queue(output_dir: Path) -> dict[tuple[str, int], str]:
    """The tasks of this folder's submissions that wait, run or come to an end: (name, index) to Slurm's name of each.

    None on a machine without Slurm, such as one that the results were copied to.

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
    """Whether every run of a submission is done: the queue need not be asked."""
    folders = (output_dir / Path(run["folder"]).name for task in content["tasks"] for run in task)
    return all(RunFolder(folder).is_done for folder in folders)


def queued_runs(output_dir: Path) -> dict[str, str]:
    """The ids of the runs whose task is in the queue, each with Slurm's name of that task."""
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
    """The lines that one of Slurm's commands prints.

    Raises:
        UserError: if it is missing, does not answer within a minute, or refuses; with its own words.
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
    """``scontrol show config`` as names and values."""
    return parse_config(ask(["scontrol", "show", "config"]))


def room_in_queue(cluster: dict[str, str], account: str | None, qos: str | None) -> int:
    """How many more tasks the cluster takes from this user now, as far as it says.

    The least of what MaxJobCount leaves, and, where there is accounting, of what the association's MaxSubmitJobs and
    the quality of service's MaxSubmitJobsPerUser leave. Group limits are not looked up: they show when they refuse.
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
    """How many tasks of this user, and of everybody, are in the queue."""
    users = [line.strip() for line in ask(["squeue", "--noheader", "--array", "--format=%U"])]
    return users.count(str(os.getuid())), len(users)


def _limits(kind: str, choice: Sequence[str], name: str) -> list[int]:
    try:
        lines = ask(["sacctmgr", "--noheader", "--parsable2", "show", kind, *choice, f"format={name}"])
    except UserError:
        # Some clusters do not let users ask: then the limit shows when it refuses.
        return []
    return [int(line) for line in lines if line.isdigit()]
