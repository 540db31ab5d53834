"""VREx: equalise the risks of the domains."""

from __future__ import annotations

import torch
from torch import Tensor

from sfmoe_dg.algorithms.base import PARALLEL_MODES, Forward
from sfmoe_dg.algorithms.shared.annealing import AnnealedERM
from sfmoe_dg.algorithms.shared.domains import domain_risks
from sfmoe_dg.runs.hparams import Hparam, int_log10_uniform, log10_uniform


class VREx(AnnealedERM):
    """Minimise the mean risk of the domains plus ``vrex_lambda`` times the variance of their risks.

    As in DomainBed, the weight of the penalty is 1 during the first ``vrex_penalty_anneal_iters`` updates, and the
    variance divides by the number of domains. ``nll`` in the records is the mean risk; in DomainBed it is the last
    domain's.
    """

    paper = "Krueger et al., Out-of-Distribution Generalization via Risk Extrapolation, 2020"
    parallel_modes = PARALLEL_MODES
    anneal_hparams = ("vrex_penalty_anneal_iters",)

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        return super().hparam_table(dataset) | {
            "vrex_lambda": Hparam(1e1, log10_uniform(-1, 5)),
            "vrex_penalty_anneal_iters": Hparam(500, int_log10_uniform(0, 4)),
        }

    def objective(self, forward: Forward) -> tuple[Tensor, dict[str, Tensor]]:
        risks = torch.stack(domain_risks(forward))
        penalty = risks.var(correction=0)
        weight = self.hparams["vrex_lambda"] if self.annealed("vrex_penalty_anneal_iters") else 1.0
        return risks.mean() + weight * penalty, {"nll": risks.mean(), "penalty": penalty}
