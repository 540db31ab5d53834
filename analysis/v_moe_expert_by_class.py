"""V-MoE: which expert serves which class, layer by layer.

Paper     V-MoE (arXiv 2106.05974): the heat maps of experts against classes.
Axes      One panel per layer with experts. Rows are experts, columns are classes, ordered so that like stands beside
          like. A cell is the share of the tokens of the class's images that choose the expert; a column sums to k.
Look for  Rows that are dark but for a few classes, in late layers; in early layers every column looks alike.
Needs     a run with experts, and its images.

    python analysis/v_moe_expert_by_class.py RUN [--data_dir DIR] [--output_dir DIR]
"""

import sys

import pandas as pd

from sfmoe_dg.analysis.drawing.saving import Drawing, caption
from sfmoe_dg.analysis.specialisation.compute import class_table
from sfmoe_dg.analysis.specialisation.figure import LABELS, draw_classes
from sfmoe_dg.analysis.subject.subject import Subject, short
from sfmoe_dg.cli.figure_script import figure_script


def draw(subject: Subject) -> Drawing:
    observed = subject.observed
    tables = {short(layer): class_table(observed, layer) for layer in observed.layers}
    tokens = sum(layer.experts[..., 0].size for layer in observed.layers.values()) // len(tables)
    return Drawing(
        "v_moe_expert_by_class",
        draw_classes(tables, LABELS["frequency"]),
        pd.DataFrame({"frequency": pd.concat(tables, names=["layer"]).stack()}).reset_index(),
        caption(
            f"Experts by class, per layer of {subject.title}: {LABELS['frequency']}",
            n=f"{subject.where(observed)}, {tokens:,} tokens per layer",
            unit="a token (class token and patches)",
            not_shown="how much of the structure is chance (analysis `specialisation`), which domain a token is of, "
            "and routing weights",
        ),
    )


if __name__ == "__main__":
    sys.exit(figure_script(__doc__, draw, prefer="VMoE"))
