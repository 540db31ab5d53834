"""SF-MoE: what the methods of a sweep cost.

Paper     SF-MoE (arXiv 2206.04046): the table of time and memory of a step; parameters and multiplications as in the
          comparison of GMoE with dense networks (ICLR 2023).
Axes      One row per method (algorithm, backbone). Bars with their values: trainable parameters, multiply-accumulates
          of predicting one image, median time of one update, its peak memory.
Look for  Many more parameters at nearly the same multiplications: that is what a sparse model is. Time above what the
          multiplications say is the price of routing.
Needs     a finished run or a sweep, and its images for their size. The table is measured now, on this machine.

    python analysis/sf_moe_cost_table.py SWEEP [--data_dir DIR] [--output_dir DIR] [--device D] [--threads N]
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from sfmoe_dg.cli.figure_script import figure_script

if TYPE_CHECKING:
    from sfmoe_dg.analysis.drawing.saving import Drawing
    from sfmoe_dg.analysis.subject.subject import Subject


def draw(subject: Subject) -> Drawing:
    # Imported late, because torch's profiler stays quiet only if it is told so before torch's import.
    from sfmoe_dg.analysis.drawing.saving import Drawing, caption
    from sfmoe_dg.analysis.efficiency.figure import STEPS, conditions, draw_cost_table, measured, methods_of
    from sfmoe_dg.analysis.subject.subject import NotApplicable

    costs = measured(subject, methods_of(subject))
    known = costs[costs["refused"] == ""]
    if known.empty:
        raise NotApplicable(f"no method of {subject.sweep} can be built here: {costs['refused'].iloc[0]}")
    return Drawing(
        "sf_moe_cost_table",
        draw_cost_table(known),
        costs,
        caption(
            f"Parameters, multiply-accumulates, time and peak memory of {len(known)} methods of the sweep, with the "
            "hyper-parameters of their runs",
            n=f"{STEPS} updates of each with {conditions(subject)}",
            unit="an update; its time is the median (quartiles in the CSV); memory is of one update",
            not_shown="accuracy, the time that loading images takes, other batch sizes and machines, and "
            f"{len(costs) - len(known)} method(s) that cannot be built (in the CSV with the reason)",
        ),
    )


if __name__ == "__main__":
    sys.exit(figure_script(__doc__, draw))
