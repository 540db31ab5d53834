"""Hand out one shell-quoted command line per run, for any scheduler that this package does not know."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from pathlib import Path

from sfmoe_dg.sweeps.launch.launcher import Listener, Study
from sfmoe_dg.sweeps.launch.settings import LaunchSettings


class Commands:
    """Starts nothing. The lines belong into the folder that the sweep was started in, if its paths are relative."""

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
