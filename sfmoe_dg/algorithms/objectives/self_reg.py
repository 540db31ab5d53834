"""SelfReg: pull the logits and features of images of the same class together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfmoe_dg.algorithms.base import Minibatches, Values
from sfmoe_dg.algorithms.erm import ERM
from sfmoe_dg.algorithms.shared.host_draws import from_host


class SelfReg(ERM):
    """Minimise cross-entropy plus squared distances between images of a class: of logits, and of features.

    Each image is compared with another image of its class, and with a mixture of two others; the features of the others
    pass a projection first. The two distances are weighted by a share drawn from Beta(½, ½). Their sum is multiplied by
    the cross-entropy where that is below 1. Follows DomainBed, which gives the projection to no optimiser: its weights
    keep their initial values (here they are frozen, which saves their gradients), and only the running statistics of
    its batch norms change.
    """

    paper = "Kim et al., SelfReg: Self-supervised Contrastive Regularization for Domain Generalization, 2021"
    waits_for_device = "shuffles images of a class on the CPU"
    min_batch_size = 2  # for the batch norms of the projection
    feature_weight = 0.3

    def __init__(
        self, input_shape: tuple[int, ...], num_classes: int, num_domains: int, hparams: dict[str, Any]
    ) -> None:
        super().__init__(input_shape, num_classes, num_domains, hparams)
        width = self.featurizer.n_outputs
        self.cdpl = _projection(width, hidden=width if width == 2048 else 2 * width).requires_grad_(False)

    def update(self, minibatches: Minibatches, unlabeled: Sequence[Tensor] | None = None) -> Values:
        share = float(np.random.beta(0.5, 0.5))
        sizes = torch.tensor([len(x) for x, _ in minibatches])
        labels, order = torch.sort(torch.cat([y for _, y in minibatches]))
        domains = from_host(torch.arange(len(minibatches)).repeat_interleave(sizes), order)
        images = torch.cat([x for x, _ in minibatches])
        features, routing_losses = self.featurizer.forward_with_losses(images[order], domains[order])
        logits = self.classifier(features)
        risk = F.cross_entropy(logits, labels)
        penalty = self._distances(features, logits, labels, share)
        loss = risk + risk.detach().clamp(max=1.0) * penalty
        return self.step(self.optimizer, loss, routing_losses, nll=risk, penalty=penalty)

    def _distances(self, features: Tensor, logits: Tensor, labels: Tensor, share: float) -> Tensor:
        projected = self.cdpl(features)
        one, other = (from_host(order, labels) for order in two_shuffles_within(labels))
        mixed_logits = share * logits[one] + (1 - share) * logits[other]
        mixed_features = share * projected[one] + (1 - share) * projected[other]
        individual = F.mse_loss(logits, logits[one]) + self.feature_weight * F.mse_loss(features, projected[one])
        mixed = F.mse_loss(logits, mixed_logits) + self.feature_weight * F.mse_loss(features, mixed_features)
        return share * individual + (1 - share) * mixed


def two_shuffles_within(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Two permutations [B] that shuffle images within each run of equal labels, drawn from torch's global generator."""
    one: list[Tensor] = []
    other: list[Tensor] = []
    start = 0
    for size in torch.unique_consecutive(labels, return_counts=True)[1].tolist():
        for shuffle in (one, other):
            shuffle.append(torch.randperm(size) + start)
        start += size
    return torch.cat(one), torch.cat(other)


def _projection(width: int, hidden: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in ((width, hidden), (hidden, hidden), (hidden, width)):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
