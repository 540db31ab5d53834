"""Contrastive adversarial domain bottleneck (CAD): features should not show the domain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfmoe_dg.algorithms.base import Minibatches, Values, unread
from sfmoe_dg.algorithms.erm import ERM
from sfmoe_dg.algorithms.shared.domains import domain_labels
from sfmoe_dg.models.moe.routers import full_precision, full_precision_region
from sfmoe_dg.runs.hparams import Hparam, choice

BASE_TEMPERATURE = 0.07
"""The loss is multiplied by ``temperature / BASE_TEMPERATURE``, as in supervised contrastive learning."""
PROJECTION_WIDTH = 128


class CAD(ERM):
    """Minimise cross-entropy plus ``lmbda`` times a loss that is small if similar images come from many domains.

    Every image picks another one with the probability softmax(zᵢ · zⱼ / ``temperature``). With ``is_flipped`` the
    loss is minus the log-probability of picking an image of another domain; without it, the log-probability of
    picking one of the same domain. Images without another image of their class are left out.

    Follows DomainBed, except for ``is_project``, which fails there with an undefined name. Here it passes the features
    through a projection of two layers before they are compared.
    """

    paper = "Ruan et al., Optimal Representations for Covariate Shift, 2022"
    waits_for_device = "reads whether any image has a partner"
    conditional: ClassVar[bool] = False
    """Whether only images of the same class are compared (CondCAD)."""

    def __init__(
        self, input_shape: tuple[int, ...], num_classes: int, num_domains: int, hparams: dict[str, Any]
    ) -> None:
        super().__init__(input_shape, num_classes, num_domains, hparams)
        self.project: nn.Module = nn.Identity()
        if hparams["is_project"]:
            width = self.featurizer.n_outputs
            self.project = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, PROJECTION_WIDTH))
            self.optimizer = self.adam()

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        return super().hparam_table(dataset) | {
            "lmbda": Hparam(0.1, choice(1e-4, 1e-3, 1e-2, 1e-1, 1, 1e1, 1e2)),
            "temperature": Hparam(0.1, choice(0.05, 0.1), above=0),
            "is_normalized": Hparam(False),
            "is_project": Hparam(False),
            "is_flipped": Hparam(True),
        }

    def update(self, minibatches: Minibatches, unlabeled: Sequence[Tensor] | None = None) -> Values:
        forward = self.forward_domains(minibatches)
        features, labels = torch.cat(forward.features), forward.all_labels
        compared = self.project(features)
        if self.hparams["is_normalized"]:
            compared = F.normalize(compared, dim=1)
        bn_loss = self.bottleneck(compared, labels, domain_labels(minibatches))
        # Classify after the bottleneck, as upstream, so that the gradients of the features are summed in its order.
        clf_loss = F.cross_entropy(self.classifier(features), labels)
        total_loss = clf_loss + self.hparams["lmbda"] * bn_loss
        losses = {"clf_loss": clf_loss, "bn_loss": bn_loss, "total_loss": total_loss} | forward.routing_losses
        self.descend(sum(forward.routing_losses.values(), start=total_loss), self.optimizer)
        return unread(losses)

    def bottleneck(self, features: Tensor, labels: Tensor, domains: Tensor) -> Tensor:
        """The bottleneck [] of features [B, D], labels [B] and domains [B]; zero if no image has a partner."""
        itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        same_class = labels[:, None].eq(labels) & ~itself
        same_domain = domains[:, None].eq(domains)
        wanted = ~same_domain if self.hparams["is_flipped"] else same_domain
        pool = same_class if self.conditional else ~itself
        if self.conditional:
            wanted = wanted & same_class
        # Upstream sets an image's similarity to itself to zero, and still counts it in the row's maximum and, without
        # is_flipped and across classes, among the wanted images.
        with full_precision_region(features):
            products = full_precision(features) @ full_precision(features).T
        similarities = (products / self.hparams["temperature"]).masked_fill(itself, 0.0)
        counted = wanted.any(1) & (wanted if self.conditional else same_class).any(1)
        if not counted.any():
            return features.new_zeros(())
        # Subtract the row's maximum, since similarities may be in the thousands.
        similarities = (similarities - similarities.detach().amax(1, keepdim=True))[counted]
        of_pool = masked_logsumexp(similarities, pool[counted]).unsqueeze(1)
        log_prob = masked_logsumexp(similarities - of_pool, wanted[counted])
        scale = self.hparams["temperature"] / BASE_TEMPERATURE
        return ((-scale if self.hparams["is_flipped"] else scale) * log_prob).mean()


def masked_logsumexp(values: Tensor, mask: Tensor) -> Tensor:
    """The log-sum-exp over the last dimension of the entries in the mask; every row must have one."""
    return values.masked_fill(~mask, float("-inf")).logsumexp(-1)
