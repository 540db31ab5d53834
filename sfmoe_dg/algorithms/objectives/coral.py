"""Deep CORAL: align means and covariances of the features between domains."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from sfmoe_dg.algorithms.base import PARALLEL_MODES, Forward
from sfmoe_dg.algorithms.erm import ERM
from sfmoe_dg.algorithms.shared.domains import mean_risk
from sfmoe_dg.runs.hparams import Hparam, log10_uniform


class CORAL(ERM):
    """Minimise the mean risk plus ``mmd_gamma`` times the mean over pairs of domains of :func:`moment_distance`.

    Follows DomainBed (``AbstractMMD`` without Gaussian kernels): squared differences are averaged over entries, the
    covariance divides by n - 1, and the cross-entropy is averaged over domains.
    """

    paper = "Sun and Saenko, Deep CORAL, 2016"
    parallel_modes = PARALLEL_MODES
    min_batch_size = 2  # for the covariance within a minibatch
    one_pass = False

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        return super().hparam_table(dataset) | {"mmd_gamma": Hparam(1.0, log10_uniform(-1, 1))}

    @staticmethod
    def distance(a: Tensor, b: Tensor) -> Tensor:
        """The distance [] between the features of two domains, [N, D] and [M, D]."""
        return moment_distance(a, b)

    def objective(self, forward: Forward) -> tuple[Tensor, dict[str, Tensor]]:
        risk = mean_risk(forward)
        penalties = [self.distance(a, b) for a, b in combinations(forward.features, 2)]
        penalty = torch.stack(penalties).mean() if penalties else risk.new_zeros(())
        return risk + self.hparams["mmd_gamma"] * penalty, {"penalty": penalty}


def moment_distance(a: Tensor, b: Tensor) -> Tensor:
    """The mean squared difference of the means, plus that of the covariances, of a [N, D] and b [M, D].

    Examples:
        >>> moment_distance(torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [3.0]]))
        tensor(1.)
    """
    mean_a, mean_b = a.mean(0, keepdim=True), b.mean(0, keepdim=True)
    covariance_a = (a - mean_a).T @ (a - mean_a) / (len(a) - 1)
    covariance_b = (b - mean_b).T @ (b - mean_b) / (len(b) - 1)
    return (mean_a - mean_b).pow(2).mean() + (covariance_a - covariance_b).pow(2).mean()
