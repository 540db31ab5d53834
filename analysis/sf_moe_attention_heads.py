"""SF-MoE: where the heads of the last block attend, a dense ViT beside SF-MoE.

Paper     SF-MoE (arXiv 2206.04046): the attention maps of the class token, head by head.
Axes      Rows are domains; they show the same object where the out-splits of all domains share one (--split
          identity). The first column is the picture, then one column per head of each model. Bright patches get most
          of the head's attention; every map has its own scale.
Look for  Heads of SF-MoE that differ from each other and follow the object, where heads of the dense model repeat
          each other.
Needs     a run of a vision transformer with a class token, and its images; in a sweep, its dense (or sparse)
          counterpart on the same held-out domain is drawn beside it.

    python analysis/sf_moe_attention_heads.py RUN [--data_dir DIR] [--output_dir DIR]
"""

import sys

from sfmoe_dg.analysis.attention.figure import draw_heads, head_maps, head_table, transformers
from sfmoe_dg.analysis.drawing.saving import Drawing, caption
from sfmoe_dg.analysis.subject.subject import Subject
from sfmoe_dg.cli.figure_script import figure_script


def draw(subject: Subject) -> Drawing:
    networks, left_out = transformers(subject)
    shown = head_maps(subject, networks)
    heads = " and ".join(f"{maps.shape[1]} heads of {name}" for name, maps in shown.maps.items())
    return Drawing(
        "sf_moe_attention_heads",
        draw_heads(shown.pixels, shown.titles, shown.maps),
        head_table(shown.titles, shown.maps),
        caption(
            f"Attention of the class token over the patches in the last block, held out {subject.run.held_out}"
            f"{left_out}",
            n=f"{len(shown.titles)} images of the out-splits ({subject.run.dataset.name}), {heads}",
            unit="a head on an image",
            not_shown="how much attention a map holds in all (each has its own scale), other objects and blocks, and "
            "the mean overlap of heads (analysis `attention`, attention_redundancy)",
        ),
    )


if __name__ == "__main__":
    sys.exit(figure_script(__doc__, draw))
