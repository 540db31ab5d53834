"""Fishr: match the variance of gradients between domains."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, vmap

from sfmoe_dg.algorithms.base import Forward
from sfmoe_dg.algorithms.shared.annealing import AnnealedERM
from sfmoe_dg.models.moe.routers import full_precision_region
from sfmoe_dg.runs.hparams import Hparam, int_uniform, log10_uniform, uniform


class Fishr(AnnealedERM):
    """Minimise cross-entropy plus ``lambda`` times the spread of the gradient variances of the domains.

    The gradients are those of single images with respect to the classifier's weights. Their variance is taken per
    weight and smoothed over updates with ``ema``; the spread is the mean squared distance of the domains' variances
    from their mean. The penalty starts after ``penalty_anneal_iters`` updates.

    Follows DomainBed, which divides the smoothed variance by 1 - ``ema``, so that smoothing does not weaken the
    gradient. Differences: gradients of single images come from ``torch.func`` instead of backpack, and the smoothed
    variances are a buffer, so that they are saved with the model.
    """

    paper = "Rame et al., Fishr: Invariant Gradient Variances for Out-of-Distribution Generalization, 2021"
    parallel_modes = ("ddp",)
    anneal_hparams = ("penalty_anneal_iters",)
    smoothed: Tensor

    def __init__(
        self, input_shape: tuple[int, ...], num_classes: int, num_domains: int, hparams: dict[str, Any]
    ) -> None:
        super().__init__(input_shape, num_classes, num_domains, hparams)
        weights = sum(p.numel() for p in self.classifier.parameters())
        self.register_buffer("smoothed", torch.zeros(num_domains, weights))

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        return super().hparam_table(dataset) | {
            "lambda": Hparam(1000.0, log10_uniform(1.0, 4.0)),
            "penalty_anneal_iters": Hparam(1500, int_uniform(0.0, 5000.0)),
            "ema": Hparam(0.95, uniform(0.90, 0.99), low=0, below=1),
        }

    def objective(self, forward: Forward) -> tuple[Tensor, dict[str, Tensor]]:
        risk = F.cross_entropy(forward.all_logits, forward.all_labels)
        variances = torch.stack(
            [self._gradient_variance(z, y) for z, y in zip(forward.features, forward.labels, strict=True)]
        )
        ema = self.hparams["ema"]
        smoothed = ema * self.smoothed + (1 - ema) * variances
        self.smoothed = smoothed.detach()
        smoothed = smoothed / (1 - ema)
        penalty = (smoothed - smoothed.mean(0)).square().mean()
        weight = self.hparams["lambda"] if self.annealed("penalty_anneal_iters") else 0.0
        return risk + weight * penalty, {"nll": risk, "penalty": penalty}

    def _gradient_variance(self, features: Tensor, labels: Tensor) -> Tensor:
        """The variance over one domain's images, a vector with one entry per weight of the classifier."""
        weights: dict[str, Tensor] = dict(self.classifier.named_parameters())

        def risk(weights: dict[str, Tensor], z: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(functional_call(self.classifier, weights, (z.unsqueeze(0),)), y.unsqueeze(0))

        # Half precision cannot represent the squares of small gradients.
        with full_precision_region(features):
            of_images = vmap(grad(risk), in_dims=(None, 0, 0))(weights, features.float(), labels)
            return torch.cat([g.flatten(1).var(0, correction=0) for g in of_images.values()])
