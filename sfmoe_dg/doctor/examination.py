"""Run all checks at once, each with a time limit."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sfmoe_dg.doctor.findings import Finding, Probe, warning


def probes(data_dir: str | None, output_dir: str, environment: Mapping[str, str]) -> list[Probe]:
    """All checks, in the order of the report."""
    from sfmoe_dg.doctor import datasets, disks, machine, services

    return [
        *machine.probes(),
        *disks.probes(Path(output_dir)),
        *(datasets.probes(Path(data_dir)) if data_dir else ()),
        *services.probes(environment),
    ]


def examine(questions: Sequence[Probe]) -> Iterator[Finding]:
    """Run checks at once and yield their findings in the order of the checks.

    A check that hangs, mostly on a file system that does not answer, is left alone in its thread.
    """
    asked = [_Asked(question) for question in questions]
    started = time.monotonic()
    for one in asked:
        yield from one.answers(started)


class _Asked:
    """A check that runs in a thread of its own."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._found: list[Finding] = []
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        try:
            self._found.extend(self._probe.ask())
        except Exception as error:  # an unexpected error becomes a finding: the doctor itself must not fail
            what = f"{type(error).__name__}: {error}".splitlines()[0]
            self._found.append(warning(self._probe.topic, f"this check itself failed ({what}); please report it"))

    def answers(self, started: float) -> list[Finding]:
        probe = self._probe
        self._thread.join(max(0.0, started + probe.seconds - time.monotonic()))
        if not self._thread.is_alive():
            return self._found
        late = probe.late or warning(probe.topic, f"no answer within {probe.seconds:g} s; look at what it waits for")
        return [*self._found, late]
