"""Mixup: train on mixtures of images of two domains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sfmoe_dg.algorithms.base import Minibatches, Values
from sfmoe_dg.algorithms.erm import ERM, mean_losses
from sfmoe_dg.algorithms.shared.gradients import run_domain
from sfmoe_dg.runs.hparams import Hparam, log10_uniform, require_positive


class Mixup(ERM):
    """Cross-entropy of mixed images, their labels mixed in the same share.

    The domains are put in a ring of random order and each is mixed with the next, image by image; the share is drawn
    from Beta(``mixup_alpha``, ``mixup_alpha``), once per pair (DomainBed). A backbone that routes by domain is told the
    one with the larger share.
    """

    paper = "Yan et al., Improve Unsupervised Domain Adaptation with Mixup Training, 2020"

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        return super().hparam_table(dataset) | {"mixup_alpha": Hparam(0.2, log10_uniform(-1, 1))}

    @classmethod
    def check_hparams(cls, hparams: dict[str, object], where: str) -> None:
        super().check_hparams(hparams, where)
        require_positive(hparams, ["mixup_alpha"], where)

    def update(self, minibatches: Minibatches, unlabeled: Sequence[Tensor] | None = None) -> Values:
        risks, passes = [], []
        for i, j in neighbours_in_a_random_ring(len(minibatches)):
            share = float(np.random.beta(self.hparams["mixup_alpha"], self.hparams["mixup_alpha"]))
            (x_i, y_i), (x_j, y_j) = same_length(minibatches[i], minibatches[j])
            mixed = share * x_i + (1 - share) * x_j
            logits, losses = run_domain(self.network, mixed, i if share >= 0.5 else j)
            risks.append(share * F.cross_entropy(logits, y_i) + (1 - share) * F.cross_entropy(logits, y_j))
            passes.append(losses)
        return self.step(self.optimizer, torch.stack(risks).mean(), mean_losses(passes))


def neighbours_in_a_random_ring(num_domains: int) -> Iterator[tuple[int, int]]:
    """Every domain with the one after it, in an order drawn from torch's global generator."""
    order = torch.randperm(num_domains).tolist()
    return zip(order, order[1:] + order[:1], strict=True)


def same_length(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[tuple[Tensor, Tensor], ...]:
    """Two minibatches cut to the shorter one's length."""
    length = min(len(a[0]), len(b[0]))
    return tuple((x[:length], y[:length]) for x, y in (a, b))
