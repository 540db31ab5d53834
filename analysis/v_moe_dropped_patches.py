"""V-MoE: which patches of a picture are dropped first when the experts' buffers shrink.

Paper     V-MoE (arXiv 2106.05974), section 4: pictures whose discarded patches are blanked.
Axes      Columns are pictures; below each picture one row per allocation. The colour of a patch is the largest capacity
          ratio at which the first layer with experts drops it: dark patches are kept longest.
Look for  Batch priority routing: dark patches on the object, bright ones on the background. Vanilla: whole pictures
          late in the batch are dropped first, whatever they show.
Needs     a vision transformer with experts whose route depends on the token, and its images.

    python analysis/v_moe_dropped_patches.py RUN [--data_dir DIR] [--output_dir DIR]
"""

import sys

from sfmoe_dg.analysis.adaptive_compute.figure import draw_dropped, dropped_table, drops_of, unseen_images
from sfmoe_dg.analysis.drawing.saving import Drawing, caption
from sfmoe_dg.analysis.subject.subject import Subject, short
from sfmoe_dg.cli.figure_script import figure_script


def draw(subject: Subject) -> Drawing:
    subject.require_experts()
    chosen = unseen_images(subject)
    drops = drops_of(subject, chosen)
    pixels, first = drops.shown(subject, chosen)
    return Drawing(
        "v_moe_dropped_patches",
        draw_dropped(pixels, first),
        dropped_table(first),
        caption(
            "Largest capacity ratio at which a patch is dropped (0: kept at all ratios), "
            f"layer {short(drops.layer)} of {subject.title}",
            n=f"{len(pixels)} pictures, evenly spaced in one batch of {subject.where(chosen)}",
            unit="a patch",
            not_shown="later layers, and how often objects are spared over all images (analysis `adaptive-compute`, "
            "adaptive_compute_object)",
        ),
    )


if __name__ == "__main__":
    sys.exit(figure_script(__doc__, draw, prefer="VMoE"))
