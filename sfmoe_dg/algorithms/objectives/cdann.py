"""Conditional domain-adversarial training."""

from __future__ import annotations

from sfmoe_dg.algorithms.objectives.dann import DANN


class CDANN(DANN):
    """DANN whose discriminator sees features plus a learned embedding of the label, every class weighing the same."""

    paper = "Li et al., Deep Domain Generalization via Conditional Invariant Adversarial Networks, 2018"
    conditional = True
    uses_unlabeled = False
