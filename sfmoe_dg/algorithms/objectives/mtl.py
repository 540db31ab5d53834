"""Marginal transfer learning (MTL): the classifier also sees the mean feature of the domain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sfmoe_dg.algorithms.base import Algorithm, Minibatches, Values
from sfmoe_dg.algorithms.erm import make_classifier, mean_losses
from sfmoe_dg.models.backbones import build_backbone
from sfmoe_dg.runs.hparams import Hparam, choice


class MTL(Algorithm):
    """Minimise the cross-entropy, summed over domains, of a classifier that also sees the domain's mean feature.

    In training the mean is a moving average over the domain's batches, in which the new batch has the weight
    ``mtl_ema``. In prediction it is the mean of the batch; evaluation therefore shuffles the images.

    DomainBed overwrites the means with standard normal noise before the classifier sees them (``.normal_()`` works in
    place), in training and in prediction. ``mtl_noise``, on by default, does the same, so that results can be compared
    with published ones. If it is off, the classifier sees the means, as in the paper.
    """

    paper = "Blanchard et al., Domain Generalization by Marginal Transfer Learning, 2021"
    predicts_in_context = True

    def __init__(
        self, input_shape: tuple[int, ...], num_classes: int, num_domains: int, hparams: dict[str, Any]
    ) -> None:
        super().__init__(input_shape, num_classes, num_domains, hparams)
        self.featurizer = build_backbone(self.input_shape, hparams, num_domains=num_domains)
        width = self.featurizer.n_outputs
        self.classifier = make_classifier(2 * width, num_classes, hparams["nonlinear_classifier"])
        self.optimizer = self.adam()
        self.embeddings: Tensor
        self.register_buffer("embeddings", torch.zeros(num_domains, width))

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        return super().hparam_table(dataset) | {
            "mtl_ema": Hparam(0.99, choice(0.5, 0.9, 0.99, 1.0), low=0, high=1),
            "mtl_noise": Hparam(True),
        }

    def update(self, minibatches: Minibatches, unlabeled: Sequence[Tensor] | None = None) -> Values:
        losses, routing_losses = [], []
        for domain, (x, y) in enumerate(minibatches):
            features, routing = self.featurizer.forward_with_losses(x, torch.full_like(y, domain))
            embedding = self._moving_mean(features, domain)
            losses.append(F.cross_entropy(self._classify(features, embedding), y))
            routing_losses.append(routing)
        return self.step(self.optimizer, torch.stack(losses).sum(), mean_losses(routing_losses))

    def _moving_mean(self, features: Tensor, domain: int) -> Tensor:
        ema = self.hparams["mtl_ema"]
        mean = ema * features.mean(0) + (1 - ema) * self.embeddings[domain]
        self.embeddings[domain] = mean.detach()
        return mean

    def _classify(self, features: Tensor, embedding: Tensor) -> Tensor:
        beside = torch.randn_like(features) if self.hparams["mtl_noise"] else embedding.expand_as(features)
        return self.classifier(torch.cat([features, beside], 1))

    def predict(self, x: Tensor) -> Tensor:
        features = self.featurizer(x)
        return self._classify(features, features.mean(0))
