"""Conditional contrastive adversarial domain bottleneck."""

from __future__ import annotations

from sfmoe_dg.algorithms.objectives.cad import CAD


class CondCAD(CAD):
    """CAD among images of the same class: given the class, the domain shall not be told from the features."""

    conditional = True
