"""EQRM: minimise a quantile of the risks over domains."""

from __future__ import annotations

from statistics import NormalDist, fmean
from typing import Any

import torch
from torch import Tensor

from sfmoe_dg.algorithms.base import PARALLEL_MODES, Forward
from sfmoe_dg.algorithms.objectives.irm import domain_risks
from sfmoe_dg.algorithms.shared.annealing import AnnealedERM
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.runs.hparams import Hparam, log10_uniform, uniform


class EQRM(AnnealedERM):
    """The mean risk of the domains for ``eqrm_burnin_iters`` updates, then the ``eqrm_quantile`` of their risks.

    The quantile is that of a kernel density estimate over the domains, see :func:`quantile`. Source: the paper's
    algorithm 1, as in DomainBed. Also as there: random search draws a burn-in that is no whole number; no update then
    falls on it, so the optimiser is not restarted with ``eqrm_lr`` but goes on as it is.
    """

    paper = "Eastwood et al., Probable Domain Generalization via Quantile Risk Minimization, 2022"
    parallel_modes = PARALLEL_MODES
    min_domains = 2
    one_pass = False
    anneal_hparams = ("eqrm_burnin_iters",)
    restart_lr_hparam = "eqrm_lr"

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        return super().hparam_table(dataset) | {
            "eqrm_quantile": Hparam(0.75, uniform(0.5, 0.99)),
            "eqrm_burnin_iters": Hparam(2500, log10_uniform(2.5, 3.5), types=(float,)),
            "eqrm_lr": Hparam(1e-6, log10_uniform(-7, -5)),
        }

    @classmethod
    def check_hparams(cls, hparams: dict[str, Any], where: str) -> None:
        super().check_hparams(hparams, where)
        if not 0 < hparams["eqrm_quantile"] < 1:
            value = hparams["eqrm_quantile"]
            raise UserError(f"hyper-parameter 'eqrm_quantile' in {where} is {value!r}; it must lie between 0 and 1")

    def objective(self, forward: Forward) -> tuple[Tensor, dict[str, Tensor]]:
        risks = torch.stack(domain_risks(forward))
        if not self.annealed("eqrm_burnin_iters"):
            return risks.mean(), {}
        return quantile(risks, self.hparams["eqrm_quantile"]), {"nll": risks.mean()}


def quantile(samples: Tensor, probability: float) -> Tensor:
    """The quantile of a Gaussian kernel density estimate over two samples or more, as wide as suits normal ones best.

    It lies between the quantiles of the kernels on the smallest and on the largest sample; how far between is found by
    halving 32 times and counts as constant, so that gradients flow to the two ends and to the bandwidth (DomainBed).
    """
    bandwidth = 1.06 * samples.std() * len(samples) ** -0.2
    if bandwidth.item() == 0:
        return samples.mean()
    ends = torch.stack([samples.min(), samples.max()]) + NormalDist().inv_cdf(probability) * bandwidth
    kernels = [NormalDist(mean, bandwidth.item()) for mean in samples.tolist()]
    low, high = ends.tolist()
    below, above = 0.0, 1.0
    for _ in range(32):
        share = (below + above) / 2
        place = low + share * (high - low)
        if fmean(kernel.cdf(place) for kernel in kernels) > probability:
            above = share
        else:
            below = share
    share = (below + above) / 2
    return (1 - share) * ends[0] + share * ends[1]
