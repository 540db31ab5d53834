"""Conditional domain-adversarial training (CDANN)."""

from __future__ import annotations

from sfmoe_dg.algorithms.objectives.dann import DANN


class CDANN(DANN):
    """DANN whose discriminator sees features plus a learned embedding of the label; classes have equal weight."""

    paper = "Li et al., Deep Domain Generalization via Conditional Invariant Adversarial Networks, 2018"
    conditional = True
    uses_unlabeled = False
