"""IRM: one classifier that is optimal in every domain at once."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from sfmoe_dg.algorithms.base import PARALLEL_MODES, Forward
from sfmoe_dg.algorithms.shared.annealing import AnnealedERM
from sfmoe_dg.algorithms.shared.domains import mean_risk
from sfmoe_dg.runs.hparams import Hparam, int_log10_uniform, log10_uniform


class IRM(AnnealedERM):
    """Minimise the mean risk of the domains plus ``irm_lambda`` times the mean of :func:`invariance_penalty` (IRMv1).

    As in DomainBed, the weight of the penalty is 1 during the first ``irm_penalty_anneal_iters`` updates.
    """

    paper = "Arjovsky et al., Invariant Risk Minimization, 2019"
    parallel_modes = PARALLEL_MODES
    min_batch_size = 2  # the penalty multiplies the gradients of two halves of a minibatch
    anneal_hparams: ClassVar[tuple[str, ...]] = ("irm_penalty_anneal_iters",)

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        return super().hparam_table(dataset) | irm_hparams()

    def objective(self, forward: Forward) -> tuple[Tensor, dict[str, Tensor]]:
        risk = mean_risk(forward)
        penalty = mean_invariance_penalty(forward)
        weight = self.hparams["irm_lambda"] if self.annealed("irm_penalty_anneal_iters") else 1.0
        return risk + weight * penalty, {"nll": risk, "penalty": penalty}


def irm_hparams() -> dict[str, Hparam]:
    """The weight of the invariance penalty, and the number of updates before it has this weight."""
    return {
        "irm_lambda": Hparam(1e2, log10_uniform(-1, 5)),
        "irm_penalty_anneal_iters": Hparam(500, int_log10_uniform(0, 4)),
    }


def mean_invariance_penalty(forward: Forward) -> Tensor:
    """:func:`invariance_penalty` averaged over domains."""
    penalties = [invariance_penalty(z, y) for z, y in zip(forward.logits, forward.labels, strict=True)]
    return torch.stack(penalties).mean()


def invariance_penalty(logits: Tensor, labels: Tensor) -> Tensor:
    """An unbiased estimate [] of (∂ risk(w · logits) / ∂w)² at w = 1, for logits [B, classes] and labels [B].

    It is the product of the derivatives on the images at even and at odd positions, which are independent samples
    (paper, section 3.1 and appendix D).
    """
    factor = torch.ones((), device=logits.device, requires_grad=True)
    scaled = logits.float() * factor
    halves = [F.cross_entropy(scaled[start::2], labels[start::2]) for start in (0, 1)]
    even, odd = (torch.autograd.grad(half, factor, create_graph=True)[0] for half in halves)
    return even * odd
