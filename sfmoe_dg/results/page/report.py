"""The report of a sweep: the page of tables and curves, with the cost of the runs and further sections."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sfmoe_dg.results.page.cost import cost_section
from sfmoe_dg.results.page.page import Section, render_page
from sfmoe_dg.results.read import LoadedRecords

TITLE = "Domain generalization report"


def render_report(
    loaded: LoadedRecords,
    root: Path,
    title: str = TITLE,
    notes: Sequence[str] = (),
    sections: Sequence[Section] = (),
) -> str:
    """The report as one HTML string.

    Args:
        root: the folder of the runs, whose ``run.json`` files give the number of parameters.
        notes: sentences about what the report leaves out; they follow the problems of the records.
        sections: further sections, such as the explorer; they follow the cost.
    """
    with_notes = LoadedRecords(loaded.records, [*loaded.problems, *notes], loaded.domains)
    return render_page(with_notes, title, sections=[cost_section(loaded, root), *sections])
