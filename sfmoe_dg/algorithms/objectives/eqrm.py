"""EQRM: minimise a quantile of the domains' risks."""

from __future__ import annotations

from statistics import NormalDist, fmean

import torch
from torch import Tensor

from sfmoe_dg.algorithms.base import PARALLEL_MODES, Forward
from sfmoe_dg.algorithms.shared.annealing import AnnealedERM
from sfmoe_dg.algorithms.shared.domains import domain_risks
from sfmoe_dg.runs.hparams import Hparam, log10_uniform, uniform


class EQRM(AnnealedERM):
    """Minimise the mean risk of the domains for ``eqrm_burnin_iters`` updates, then the quantile of their risks.

    The quantile ``eqrm_quantile`` is that of a kernel density estimate over the domains, see :func:`quantile`. Source:
    the paper's algorithm 1, as in DomainBed. Also as there, random search draws a burn-in that is not a whole number.
    No update then has exactly this number, so that the optimiser is never replaced by one with ``eqrm_lr``.
    """

    paper = "Eastwood et al., Probable Domain Generalization via Quantile Risk Minimization, 2022"
    waits_for_device = "finds the quantile on the CPU"
    parallel_modes = PARALLEL_MODES
    min_domains = 2
    one_pass = False
    anneal_hparams = ("eqrm_burnin_iters",)
    restart_lr_hparam = "eqrm_lr"

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        return super().hparam_table(dataset) | {
            "eqrm_quantile": Hparam(0.75, uniform(0.5, 0.99), above=0, below=1),
            "eqrm_burnin_iters": Hparam(2500, log10_uniform(2.5, 3.5), types=(float,)),
            "eqrm_lr": Hparam(1e-6, log10_uniform(-7, -5), above=0),
        }

    def objective(self, forward: Forward) -> tuple[Tensor, dict[str, Tensor]]:
        risks = torch.stack(domain_risks(forward))
        if not self.annealed("eqrm_burnin_iters"):
            return risks.mean(), {}
        return quantile(risks, self.hparams["eqrm_quantile"]), {"nll": risks.mean()}


def quantile(samples: Tensor, probability: float) -> Tensor:
    """The quantile [] of a Gaussian kernel density estimate over ``samples`` [N], N ≥ 2.

    The bandwidth is 1.06 σ N^(-1/5), which is optimal for normally distributed samples. The quantile lies between the
    quantiles of the kernels at the smallest and at the largest sample. Its relative position is found by 32 bisections
    and treated as constant; gradients flow through the two ends and the bandwidth (DomainBed).
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
