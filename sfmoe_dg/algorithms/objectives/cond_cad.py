"""Conditional contrastive adversarial domain bottleneck (CondCAD)."""

from __future__ import annotations

from sfmoe_dg.algorithms.objectives.cad import CAD


class CondCAD(CAD):
    """CAD that compares only images of the same class: given the class, features should not show the domain."""

    conditional = True
