"""SF-MoE: accuracy when one setting of the mixture of experts changes.

Paper     SF-MoE (arXiv 2206.04046): the ablation of the block pattern; number of experts, experts per token and router
          are this suite's.
Axes      One panel per setting: its values from left to right, accuracy on held-out domains (%) upwards, with the
          standard error over trials.
Look for  An order that is larger than the bars. In the paper all-sparse blocks hurt and a balanced pattern is best.
Needs     a sweep of variants (sweeps/ablation_*.toml); no models and no images, records only.

    python analysis/sf_moe_ablation.py SWEEP [--output_dir DIR]
"""

import sys

from sfmoe_dg.analysis.ablation.figure import ablation_of, draw_ablation
from sfmoe_dg.analysis.drawing.saving import Drawing, caption
from sfmoe_dg.analysis.subject.subject import Subject
from sfmoe_dg.cli.figure_script import figure_script


def draw(subject: Subject) -> Drawing:
    ablation = ablation_of(subject)
    trials = ablation.table["trials"]
    return Drawing(
        "sf_moe_ablation",
        draw_ablation(ablation.table),
        ablation.table,
        caption(
            ablation.what,
            n=f"{ablation.results}, {trials.min()} to {trials.max()} trial(s), records up to step {ablation.steps:g}",
            unit="a trial, its mean over held-out domains; bars are standard errors over trials, 0 for a single one",
            not_shown="interactions of two settings, and how accuracy varies between domains",
        ),
    )


if __name__ == "__main__":
    sys.exit(figure_script(__doc__, draw))
