"""Stay with a study on a cluster: check the queue repeatedly and submit lost runs again, until all runs have ended."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Sequence

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.runs.folder import RunFolder, State
from sfmoe_dg.sweeps.launch.launcher import Listener, Study
from sfmoe_dg.sweeps.launch.slurm.jobs import FOLDER
from sfmoe_dg.sweeps.launch.slurm.settings import SlurmSettings
from sfmoe_dg.sweeps.launch.slurm.submit import submit
from sfmoe_dg.sweeps.status import RunStatus

LOST = "its process ended without a word: killed, out of memory, or its node failed"
FUTILE_ROUNDS = 3
"""How many times in a row runs are submitted again without any progress in between."""


class Supervision:
    """Submits runs until all are done or have failed for good.

    A run that fails three times is given up. The whole supervision is given up if jobs repeatedly end without beginning
    a run.
    """

    def __init__(self, study: Study, settings: SlurmSettings, listener: Listener) -> None:
        self._study, self._settings, self._listener = study, settings, listener
        self._deaths = {self._death(state.folder) for state in study.states()}
        """Tokens of dead owners that are already counted. Those from before this supervision are not failures."""
        self._submitted: set[RunFolder] = set()
        self._shown, self._news, self._futile = "", (0, 0), 0

    def run(self) -> None:
        """Return when every run is done or has failed for good.

        Raises:
            UserError: if jobs end repeatedly and no run makes progress.
        """
        while True:
            states = self._study.states()
            self._show(states)
            if not any(state.is_open for state in states):
                return
            if any(state.is_to_do for state in states):
                self._submit(states)
            time.sleep(self._settings.poll)

    def _show(self, states: Sequence[RunStatus]) -> None:
        counts = Counter(state.state for state in states)
        line = ", ".join(f"{counts[state]} {state.value}" for state in State if counts[state])
        if line != self._shown:
            self._listener.say(line)
        self._shown = line

    def _submit(self, states: Sequence[RunStatus]) -> None:
        to_do = {state.folder for state in states if state.is_to_do}
        noted = sum([self._note_death(folder) for folder in sorted(to_do)])
        if to_do & self._submitted:
            self._submitted -= to_do
            # Failures count as progress too, since a failing run is given up in the end.
            news = sum(s.state is State.DONE for s in states), noted + sum(s.failures for s in states)
            self._futile = self._futile + 1 if news == self._news else 0
            self._news = news
        if self._futile >= FUTILE_ROUNDS:
            logs = self._study.output_dir / FOLDER / "logs"
            raise UserError(f"Slurm's jobs end without training anything; what they said is in {logs}")
        self._submitted |= submit(self._study, self._settings, self._listener)

    def _death(self, folder: RunFolder) -> str:
        """The token of the owner whose lease is in the folder; '' without a lease."""
        owner = folder.owner
        return owner.token if owner is not None else ""

    def _note_death(self, folder: RunFolder) -> bool:
        """Record a failure if the run's process died and left its lease, since no other process records it."""
        death = self._death(folder)
        if not death or death in self._deaths:
            return False
        self._deaths.add(death)
        folder.fail(LOST, -signal.SIGKILL)
        return True
