"""What the runs of a sweep cost, as the runs recorded it: time of a step, peak memory, number of parameters."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.files import read_json
from sfmoe_dg.results.page.page import Section
from sfmoe_dg.results.read import LoadedRecords
from sfmoe_dg.results.record_lines import Record, dataset_label
from sfmoe_dg.runs.folder import RunFolder


@dataclass(frozen=True)
class RecordedCost:
    """The cost of one algorithm on one data set; None where nothing was recorded.

    Attributes:
        seconds, seconds_low, seconds_high: median, lowest and highest time of a step, over evaluations of all runs.
        memory: largest peak in GB; 0 on devices that do not count memory.
        parameters: every number of parameters that the models have, ascending; usually one.
        runs: number of runs.
    """

    dataset: str
    algorithm: str
    seconds: float | None
    seconds_low: float | None
    seconds_high: float | None
    memory: float | None
    parameters: tuple[int, ...]
    runs: int


def costs(loaded: LoadedRecords, root: Path) -> list[RecordedCost]:
    """One row per data set and algorithm, in the order of their names. Step 0 is left out: it includes the warm-up."""
    groups: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in loaded.records:
        groups[dataset_label(record), record["args"]["algorithm"]].append(record)
    return [_cost(*key, records, root) for key, records in sorted(groups.items())]


def _cost(dataset: str, algorithm: str, records: Sequence[Record], root: Path) -> RecordedCost:
    seconds = _numbers(record.get("step_time") for record in records if record["step"] > 0)
    memory = _numbers(record.get("mem_gb") for record in records)
    folders = {Path(str(record["args"].get("output_dir"))).name for record in records}
    parameters = {count for name in folders if (count := _parameters(RunFolder(root / name))) is not None}
    args = [record["args"] for record in records]
    runs = {(a["hparams_seed"], a["trial_seed"], *a["test_envs"]) for a in args}
    return RecordedCost(
        dataset,
        algorithm,
        statistics.median(seconds) if seconds else None,
        min(seconds, default=None),
        max(seconds, default=None),
        max(memory, default=None),
        tuple(sorted(parameters)),
        len(runs),
    )


def _numbers(values: Iterable[object]) -> list[float]:
    return [float(value) for value in values if isinstance(value, int | float) and math.isfinite(value)]


def _parameters(folder: RunFolder) -> int | None:
    try:
        value = read_json(folder.about).get("num_parameters")
    except (UserError, AttributeError):
        return None
    return value if isinstance(value, int) else None


def cost_section(loaded: LoadedRecords, root: Path) -> Section:
    """A table with a bar for the time of a step; all text is escaped."""
    rows = costs(loaded, root)
    longest = max((row.seconds or 0.0 for row in rows), default=0.0) or 1.0
    head = ("Data set", "Algorithm", "Time of a step (ms)", "lowest to highest", "Memory (GB)", "Parameters", "Runs")
    header = "".join(f'<th scope="col">{name}</th>' for name in head)
    lines = [_row(row, longest) for row in rows]
    html = "\n".join(
        [
            '<section id="cost">\n<h2>Cost</h2>',
            "<p>As recorded at every evaluation of every run, on the machine that trained it; runs that shared a "
            "machine slowed each other down. Median, and range. Memory is 0 where the device does not count it.</p>",
            '<div class="scroll" tabindex="0" role="region" aria-label="Cost">',
            "<table>\n<caption>Cost of training</caption>",
            f"<thead><tr>{header}</tr></thead>\n<tbody>",
            *lines,
            "</tbody>\n</table>\n</div>\n</section>",
        ]
    )
    return Section(html=html)


def _row(row: RecordedCost, longest: float) -> str:
    def milliseconds(value: float | None) -> str:
        return "not recorded" if value is None else f"{1000 * value:.0f}"

    spread = "" if row.seconds is None else f"{milliseconds(row.seconds_low)} to {milliseconds(row.seconds_high)}"
    share = 100 * (row.seconds or 0.0) / longest
    shape = 'viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true"'
    bar = f'<svg class="bar" {shape}><rect width="{share:.1f}" height="10"/></svg>'
    cells = [
        f"{milliseconds(row.seconds)} {bar}",
        spread,
        "not recorded" if row.memory is None else f"{row.memory:.2f}",
        " or ".join(f"{count:,}" for count in row.parameters) or "not recorded",
        str(row.runs),
    ]
    head = f'<th scope="row">{escape(row.dataset)}</th><td>{escape(row.algorithm)}</td>'
    return f"<tr>{head}{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
