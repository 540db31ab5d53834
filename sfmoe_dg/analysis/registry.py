"""The registry of analyses. An analysis is one folder of this package and one line here.

The folder holds ``compute.py``, which makes tables, and ``figure.py``, whose functions ``draw_…`` make figures of them.
Its function ``drawings`` yields all drawings of a :class:`~sfmoe_dg.analysis.subject.subject.Subject`. The registry
imports an analysis, and with it matplotlib and torch, only when it is used.

Other packages add analyses by an entry point in the group ``sfmoe_dg.analyses`` that points to such a function.
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
