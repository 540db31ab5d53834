"""The figures: every analysis is a file that computes its tables for a run and draws them, and a line here.

A file's functions named ``draw_…`` take computed tables and return a figure; ``drawings`` joins computation and drawing
for a :class:`~sfmoe_dg.analysis.figures.subject.Subject`. Nothing here imports matplotlib or torch before it is needed.

Another package adds an analysis through an entry point in the group ``sfmoe_dg.analyses``, whose object is a function
like ``drawings``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from sfmoe_dg.registry import Registry

if TYPE_CHECKING:
    from sfmoe_dg.analysis.figures.saving import Drawing
    from sfmoe_dg.analysis.figures.subject import Subject

Analysis = Callable[["Subject"], "Iterator[Drawing]"]

ANALYSES: Registry[Analysis] = Registry("analysis", "sfmoe_dg.analyses")
ANALYSES.register("parts", "sfmoe_dg.analysis.figures.parts:drawings")
ANALYSES.register("attributes", "sfmoe_dg.analysis.figures.attributes:drawings")
ANALYSES.register("stability", "sfmoe_dg.analysis.figures.stability:drawings")
ANALYSES.register("expert-maps", "sfmoe_dg.analysis.figures.expert_maps:drawings")
ANALYSES.register("attention", "sfmoe_dg.analysis.figures.attention:drawings")
ANALYSES.register("specialisation", "sfmoe_dg.analysis.figures.specialisation:drawings")
ANALYSES.register("adaptive-compute", "sfmoe_dg.analysis.figures.adaptive_compute:drawings")
ANALYSES.register("interference", "sfmoe_dg.analysis.figures.interference:drawings")
ANALYSES.register("ablation", "sfmoe_dg.analysis.figures.ablation:drawings")
ANALYSES.register("efficiency", "sfmoe_dg.analysis.figures.efficiency:drawings")
ANALYSES.register("compare", "sfmoe_dg.analysis.figures.compare:drawings")
ANALYSES.register("few-shot", "sfmoe_dg.analysis.figures.few_shot:drawings")
