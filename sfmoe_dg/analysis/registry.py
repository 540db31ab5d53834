"""The figures: every analysis is a file that computes its tables for a run and draws them, and a line here.

A file's functions named ``draw_…`` take computed tables and return a figure; ``drawings`` joins computation and drawing
for a :class:`~sfmoe_dg.analysis.subject.subject.Subject`. Nothing here imports matplotlib or torch before it is needed.

Another package adds an analysis through an entry point in the group ``sfmoe_dg.analyses``, whose object is a function
like ``drawings``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from sfmoe_dg.foundation.registry import Registry

if TYPE_CHECKING:
    from sfmoe_dg.analysis.drawing.saving import Drawing
    from sfmoe_dg.analysis.subject.subject import Subject

Analysis = Callable[["Subject"], "Iterator[Drawing]"]

ANALYSES: Registry[Analysis] = Registry("analysis", "sfmoe_dg.analyses")
"""Analyses by name. ``ANALYSES.register(name, function)`` adds one.

Examples:
    >>> from sfmoe_dg import ANALYSES
    >>> [name for name in ANALYSES.registered if name.startswith("a")]
    ['attributes', 'attention', 'adaptive-compute', 'ablation']
"""
ANALYSES.register("parts", "sfmoe_dg.analysis.parts.figure:drawings")
ANALYSES.register("attributes", "sfmoe_dg.analysis.attributes.figure:drawings")
ANALYSES.register("stability", "sfmoe_dg.analysis.stability.figure:drawings")
ANALYSES.register("expert-maps", "sfmoe_dg.analysis.expert_maps.figure:drawings")
ANALYSES.register("attention", "sfmoe_dg.analysis.attention.figure:drawings")
ANALYSES.register("specialisation", "sfmoe_dg.analysis.specialisation.figure:drawings")
ANALYSES.register("adaptive-compute", "sfmoe_dg.analysis.adaptive_compute.figure:drawings")
ANALYSES.register("interference", "sfmoe_dg.analysis.interference.figure:drawings")
ANALYSES.register("ablation", "sfmoe_dg.analysis.ablation.figure:drawings")
ANALYSES.register("efficiency", "sfmoe_dg.analysis.efficiency.figure:drawings")
ANALYSES.register("compare", "sfmoe_dg.analysis.compare.figure:drawings")
ANALYSES.register("few-shot", "sfmoe_dg.analysis.few_shot.figure:drawings")
