"""SF-MoE: which expert takes which part of the object.

Paper     SF-MoE (arXiv 2206.04046): the two-dimensional histogram of bird parts and experts.
Axes      Rows are parts (last: background), columns are experts; one panel per domain and one for all together.
          A cell is the share of the part's patches whose first choice is the expert; a row sums to 1.
Look for  Rows with one bright cell: the part has an expert of its own. Left and right wing with the same row: they
          share an expert, as in the paper. The same panel in every domain: the expert survives a change of style.
Needs     a run with experts on a data set with part locations (CUB-DG, StyledDigits), and its images.

    python analysis/sf_moe_part_histogram.py RUN [--data_dir DIR] [--output_dir DIR]
"""

import sys

import pandas as pd

from sfmoe_dg.analysis.drawing.saving import Drawing, caption
from sfmoe_dg.analysis.parts.compute import part_histogram
from sfmoe_dg.analysis.parts.figure import draw_histogram, matching_rule, patches_per_part
from sfmoe_dg.analysis.subject.subject import NotApplicable, Subject
from sfmoe_dg.cli.figure_script import figure_script


def draw(subject: Subject) -> Drawing:
    observed = subject.observed
    if not observed.annotations.part_names:
        raise NotApplicable(f"{subject.run.dataset.name} has no part locations")
    histogram = part_histogram(observed, subject.main_layer, patches_per_part(observed.grid))
    return Drawing(
        "sf_moe_part_histogram",
        draw_histogram(histogram),
        pd.DataFrame({"patches": histogram.stack()}).reset_index(),
        caption(
            f"Share of the patches near each part whose first choice is each expert, {subject.layer_title}",
            n=f"{subject.where(observed)}, {histogram.loc['together'].to_numpy().sum():,} patches",
            unit=f"a patch near a part; {matching_rule(observed.grid)}",
            not_shown="how uneven the histogram of a router that sees positions only would be, since parts have usual "
            "places (analysis `parts`, parts_information), and the other layers",
        ),
    )


if __name__ == "__main__":
    sys.exit(figure_script(__doc__, draw))
