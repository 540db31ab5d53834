"""SF-MoE: the expert of every patch, drawn over the picture.

Paper     SF-MoE (arXiv 2206.04046): the map of the top-1 expert over the image.
Axes      Columns are domains; they show the same object where the out-splits of all domains share one (--split
          identity). The first row is the picture with its visible parts (circles), below it one row per layer with
          experts. Number and colour of a cell are the patch's first choice.
Look for  Regions of one expert that follow the object, and the same map in every column of a row.
Needs     a run with experts that sees a grid of patches, and its images.

    python analysis/sf_moe_expert_map.py RUN [--data_dir DIR] [--output_dir DIR]
"""

import sys

from sfmoe_dg.analysis.drawing.saving import Drawing, caption
from sfmoe_dg.analysis.expert_maps.compute import expert_maps
from sfmoe_dg.analysis.expert_maps.figure import columns_of, draw_maps, map_table
from sfmoe_dg.analysis.subject.subject import Subject, short
from sfmoe_dg.cli.figure_script import figure_script


def draw(subject: Subject) -> Drawing:
    observed = subject.observed
    columns = columns_of(subject, subject.first_objects(1)[0])
    maps = {short(layer): expert_maps(observed, layer) for layer in observed.layers}
    names = dict.fromkeys(observed.class_names[observed.label[column.row]] for column in columns)
    return Drawing(
        "sf_moe_expert_map",
        draw_maps(columns, maps),
        map_table(columns, maps),
        caption(
            f"First choice of expert of every patch, per layer of {subject.title}; circles are visible parts",
            n=f"{len(columns)} images of the out-splits ({subject.run.dataset.name}, class {', '.join(names)})",
            unit="a patch",
            not_shown="other objects (the first one is drawn, not a chosen one), second choices, and how often patches "
            "keep their expert over all objects (analysis `expert-maps`, expert_maps_agreement)",
        ),
    )


if __name__ == "__main__":
    sys.exit(figure_script(__doc__, draw))
