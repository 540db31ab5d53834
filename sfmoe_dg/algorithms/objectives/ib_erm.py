"""IB_ERM: ERM with an information bottleneck, a small variance of the features."""

from __future__ import annotations

import torch
from torch import Tensor

from sfmoe_dg.algorithms.base import PARALLEL_MODES, Forward
from sfmoe_dg.algorithms.shared.annealing import AnnealedERM
from sfmoe_dg.algorithms.shared.domains import mean_risk
from sfmoe_dg.runs.hparams import Hparam, int_log10_uniform, log10_uniform


class IB_ERM(AnnealedERM):
    """Minimise the mean risk of the domains plus ``ib_lambda`` times :func:`bottleneck`.

    The penalty starts after ``ib_penalty_anneal_iters`` updates. Follows DomainBed.
    """

    paper = "Ahuja et al., Invariance Principle Meets Information Bottleneck, 2021"
    parallel_modes = PARALLEL_MODES
    min_batch_size = 2  # for the variance within a minibatch
    anneal_hparams = ("ib_penalty_anneal_iters",)

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        return super().hparam_table(dataset) | ib_hparams()

    def objective(self, forward: Forward) -> tuple[Tensor, dict[str, Tensor]]:
        risk, penalty = mean_risk(forward), bottleneck(forward)
        weight = self.hparams["ib_lambda"] if self.annealed("ib_penalty_anneal_iters") else 0.0
        return risk + weight * penalty, {"nll": risk, "IB_penalty": penalty}


def ib_hparams() -> dict[str, Hparam]:
    """The weight of the bottleneck, and the number of updates before it starts."""
    return {
        "ib_lambda": Hparam(1e2, log10_uniform(-1, 5)),
        "ib_penalty_anneal_iters": Hparam(500, int_log10_uniform(0, 4)),
    }


def bottleneck(forward: Forward) -> Tensor:
    """The unbiased variance of each feature within a domain, averaged over features, then over domains."""
    return torch.stack([features.float().var(0).mean() for features in forward.features]).mean()
