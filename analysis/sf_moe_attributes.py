"""SF-MoE: which expert goes with which visual attribute.

Paper     SF-MoE (arXiv 2206.04046): the correlation of attributes and experts. The paper counts parts; the test of
          every attribute against every expert is this suite's.
Axes      Rows are attributes, columns are experts. A cell is the point-biserial correlation of the attribute with the
          share of an object's patches that the expert takes; * marks p < 0.05 after correction over all pairs.
Look for  Stars, and among them large numbers: an expert that takes more (or fewer) patches of objects with the
          attribute. Without stars nothing can be said, however coloured the map is.
Needs     a run with experts on a data set with attributes (CUB-DG, StyledDigits), and its images.

    python analysis/sf_moe_attributes.py RUN [--data_dir DIR] [--output_dir DIR]
"""

import sys

from sfmoe_dg.analysis.attributes.compute import attribute_associations
from sfmoe_dg.analysis.attributes.figure import PERMUTATIONS, REPLICATES, draw_associations
from sfmoe_dg.analysis.drawing.saving import Drawing, caption
from sfmoe_dg.analysis.subject.subject import NotApplicable, Subject
from sfmoe_dg.cli.figure_script import figure_script


def draw(subject: Subject) -> Drawing:
    observed = subject.observed
    if not observed.annotations.attribute_names:
        raise NotApplicable(f"{subject.run.dataset.name} has no attributes")
    table = attribute_associations(observed, subject.main_layer, permutations=PERMUTATIONS, replicates=REPLICATES)
    return Drawing(
        "sf_moe_attributes",
        draw_associations(table),
        table,
        caption(
            f"Correlation of attributes with the share of patches that each expert takes, {subject.layer_title}; "
            f"* p < 0.05 ({PERMUTATIONS} permutations, Benjamini–Hochberg over all {len(table)} pairs)",
            n=f"{table['units'].max()} objects on {subject.where(observed)}",
            unit="an object, its images in all domains averaged",
            not_shown="whether the class explains the correlation, and intervals (in the CSV)",
        ),
    )


if __name__ == "__main__":
    sys.exit(figure_script(__doc__, draw))
