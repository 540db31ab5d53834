"""Run a study on this machine, a fixed number of processes at a time."""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path

from sfmoe_dg.foundation.cores import usable_cores
from sfmoe_dg.runs.folder import RunFolder, State
from sfmoe_dg.sweeps.launch.launcher import Listener, Study
from sfmoe_dg.sweeps.launch.pool import Pool, make_places
from sfmoe_dg.sweeps.launch.settings import LaunchSettings

LOOK_AGAIN_SECONDS = 5.0


class Local:
    """Runs ``settings.jobs`` runs at a time, or ``parallel_per_gpu`` runs on each of ``gpus`` GPUs."""

    def launch(self, study: Study, settings: LaunchSettings, listener: Listener) -> bool:
        """Run everything that is to do, then wait until the runs that other processes have begun end too.

        On Ctrl-C it lets its running runs save, ends them, and raises KeyboardInterrupt again.
        """
        if settings.gpus is not None and settings.jobs > 1:
            listener.say(f"jobs = {settings.jobs} is not used: with gpus, parallel_per_gpu says how many share one")
        count = settings.jobs if settings.gpus is None else settings.side_by_side
        threads = settings.threads or max(1, usable_cores() // count)
        pool = Pool(make_places(count, threads, settings.gpus), listener.ended, study.is_owned)
        # A run that failed in this sweep is not tried again by it; a run that another process took may come back.
        announced, tried = False, set[RunFolder]()
        while True:
            states = study.states()
            jobs = [study.job(s) for s in states if s.is_to_do and s.folder not in tried]
            others = [s for s in states if s.state in (State.RUNNING, State.QUEUED)]
            if not jobs and not others:
                return True
            if not jobs and not announced:
                announced = True
                listener.say(f"waiting for {len(others)} runs that another sweep has begun or queued")
            of_others = {job.folder for job in pool.run(jobs)}
            tried |= {job.folder for job in jobs} - of_others
            if not jobs:
                time.sleep(LOOK_AGAIN_SECONDS)

    def queued(self, output_dir: Path) -> dict[str, str]:
        return {}

    def cancel(self, output_dir: Path, runs: Collection[str] | None = None) -> list[str]:
        return []
