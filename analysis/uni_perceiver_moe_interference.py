"""Uni-Perceiver-MoE: how training on one domain changes the loss of another, dense beside conditional experts.

Paper     Uni-Perceiver-MoE (arXiv 2206.04674), table 1: interference between tasks. Here the tasks are the training
          domains.
Axes      One matrix per model and form. The domain of the row is affected by a step for the domain of the column,
          relative to its own step: 1 as good as its own, 0 no effect, below 0 harm. The diagonal is 1.
Look for  Larger numbers off the diagonal in the model with experts than in the dense one: less interference.
Needs     a run with two training domains or more, and its images; in a sweep, its dense (or sparse) counterpart on the
          same held-out domain is drawn beside it.

    python analysis/uni_perceiver_moe_interference.py RUN [--data_dir DIR] [--output_dir DIR]
"""

import sys

from sfmoe_dg.analysis.drawing.saving import Drawing, caption
from sfmoe_dg.analysis.interference.figure import batches_of, draw_matrices, interference_of, with_names
from sfmoe_dg.analysis.subject.subject import Subject
from sfmoe_dg.cli.figure_script import figure_script


def draw(subject: Subject) -> Drawing:
    names = list(subject.run.seen_domains)
    table = interference_of(subject)
    return Drawing(
        "uni_perceiver_moe_interference",
        draw_matrices(table, names),
        with_names(table, names),
        caption(
            f"Interference of training domains over all weights, {' beside '.join(subject.pair)} (held out "
            f"{subject.run.held_out}); rows are affected, columns do the updating",
            n=batches_of(subject),
            unit="a batch; a cell is the mean over batches (standard errors in the CSV)",
            not_shown="single layers (in the CSV; analysis `interference`, interference_by_layer), and what the unseen "
            "domain would gain or lose",
        ),
    )


if __name__ == "__main__":
    sys.exit(figure_script(__doc__, draw, prefer="CondMoE"))
