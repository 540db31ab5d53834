"""IB_IRM: IRM with an information bottleneck."""

from __future__ import annotations

from torch import Tensor

from sfmoe_dg.algorithms.base import PARALLEL_MODES, Forward
from sfmoe_dg.algorithms.objectives.ib_erm import bottleneck, ib_hparams
from sfmoe_dg.algorithms.objectives.irm import IRM, mean_invariance_penalty
from sfmoe_dg.algorithms.shared.domains import mean_risk
from sfmoe_dg.runs.hparams import Hparam


class IB_IRM(IRM):
    """Minimise IRM's objective plus ``ib_lambda`` times the information bottleneck of IB_ERM.

    The two penalties start after ``irm_penalty_anneal_iters`` and ``ib_penalty_anneal_iters`` updates. As in DomainBed,
    a new optimiser is created at both.
    """

    paper = "Ahuja et al., Invariance Principle Meets Information Bottleneck, 2021"
    parallel_modes = PARALLEL_MODES
    anneal_hparams = ("irm_penalty_anneal_iters", "ib_penalty_anneal_iters")

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        return super().hparam_table(dataset) | ib_hparams()

    def objective(self, forward: Forward) -> tuple[Tensor, dict[str, Tensor]]:
        risk, invariance, information = mean_risk(forward), mean_invariance_penalty(forward), bottleneck(forward)
        irm_weight = self.hparams["irm_lambda"] if self.annealed("irm_penalty_anneal_iters") else 1.0
        ib_weight = self.hparams["ib_lambda"] if self.annealed("ib_penalty_anneal_iters") else 0.0
        loss = risk + irm_weight * invariance + ib_weight * information
        return loss, {"nll": risk, "IRM_penalty": invariance, "IB_penalty": information}
