"""Mixup: train on mixtures of images of two domains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sfmoe_dg.algorithms.base import Minibatches, Values
from sfmoe_dg.algorithms.erm import ERM, mean_losses
from sfmoe_dg.algorithms.shared.domains import run_domain, same_length
from sfmoe_dg.runs.hparams import Hparam, log10_uniform


class Mixup(ERM):
    """Minimise the cross-entropy of share · imageᵢ + (1 - share) · imageⱼ, with the labels mixed in the same share.

    The domains form a ring in random order, and the images of each domain are mixed with those of the next. The share
    is drawn from Beta(``mixup_alpha``, ``mixup_alpha``) once per pair of domains (DomainBed). A backbone that routes by
    domain is given the domain with the larger share.
    """

    paper = "Yan et al., Improve Unsupervised Domain Adaptation with Mixup Training, 2020"

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        return super().hparam_table(dataset) | {"mixup_alpha": Hparam(0.2, log10_uniform(-1, 1), above=0)}

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
    """Pairs of each domain and its successor in a ring, whose order is drawn from torch's global generator."""
    order = torch.randperm(num_domains).tolist()
    return zip(order, order[1:] + order[:1], strict=True)
