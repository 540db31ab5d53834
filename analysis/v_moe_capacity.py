"""V-MoE: accuracy of one trained model against the capacity of its experts, vanilla against batch priority routing.

Paper     V-MoE (arXiv 2106.05974), section 4: priority routing at reduced capacity.
Axes      Left: accuracy (%) against the capacity ratio C, with binomial standard errors; the dotted line is the model
          with nothing dropped. Right: share of tokens that reach an expert (%).
Look for  Batch priority above vanilla at small C, though both drop the same number in the first layer: it is the
          important patches that it keeps.
Needs     a run with experts whose route depends on the token, and its images. Nothing is trained.

    python analysis/v_moe_capacity.py RUN [--data_dir DIR] [--output_dir DIR]
"""

import sys

from sfmoe_dg.analysis.adaptive_compute.figure import capacity_table, draw_capacity, unseen_images
from sfmoe_dg.analysis.drawing.saving import Drawing, caption
from sfmoe_dg.analysis.subject.subject import Subject
from sfmoe_dg.cli.figure_script import figure_script


def draw(subject: Subject) -> Drawing:
    subject.require_experts()
    chosen = unseen_images(subject)
    table = capacity_table(subject, list(subject.batches(chosen)))
    return Drawing(
        "v_moe_capacity",
        draw_capacity(table),
        table,
        caption(
            f"Accuracy and kept tokens against the capacity ratio, {subject.title}, not trained again",
            n=subject.where(chosen),
            unit="an image (accuracy), a token of a layer (kept)",
            not_shown="the time that is saved, and how the accuracy of runs trained alike would vary",
        ),
    )


if __name__ == "__main__":
    sys.exit(figure_script(__doc__, draw, prefer="VMoE"))
