"""Print one shell-quoted command line per run, for schedulers that this package does not support."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from pathlib import Path

from sfmoe_dg.sweeps.launch.launcher import Listener, Study
from sfmoe_dg.sweeps.launch.settings import LaunchSettings


class Commands:
    """Starts nothing. Run the printed lines in the folder in which the sweep was started: its paths may be relative."""

    prints_commands = True

    def launch(self, study: Study, settings: LaunchSettings, listener: Listener) -> bool:
        for state in study.states():
            if state.is_to_do:
                listener.command(shlex.join(study.job(state).command))
        return False

    def queued(self, output_dir: Path) -> dict[str, str]:
        return {}

    def cancel(self, output_dir: Path, runs: Collection[str] | None = None) -> list[str]:
        return []
