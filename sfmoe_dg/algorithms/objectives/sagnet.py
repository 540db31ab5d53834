"""SagNet: a classifier that depends on the content of an image and not on its style."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sfmoe_dg.algorithms.base import Minibatches, Values, unread
from sfmoe_dg.algorithms.erm import ERM, make_classifier, mean_losses
from sfmoe_dg.algorithms.shared.host_draws import from_host
from sfmoe_dg.runs.hparams import Hparam, log10_uniform


class SagNet(ERM):
    """Minimise the cross-entropy of a content classifier, and make a style classifier uncertain.

    An update takes three steps. Featurizer and classifier minimise cross-entropy on features of mixed style. The style
    classifier minimises cross-entropy on the style of one image and the content of another. The featurizer minimises
    ``sag_w_adv`` times the style classifier's cross-entropy with the uniform distribution.

    As in DomainBed, style is the mean and variance of the pooled feature vector, so that every backbone can be used;
    the paper uses those of feature maps between a ResNet's stages. Routing losses are added in both steps of the
    featurizer.
    """

    paper = "Nam et al., Reducing Domain Gap by Reducing Style Bias, 2021"

    def __init__(
        self, input_shape: tuple[int, ...], num_classes: int, num_domains: int, hparams: dict[str, Any]
    ) -> None:
        super().__init__(input_shape, num_classes, num_domains, hparams)
        nonlinear = hparams["nonlinear_classifier"]
        self.style_classifier = make_classifier(self.featurizer.n_outputs, num_classes, nonlinear)
        self.optimizer_f = self.adam(self.featurizer.parameters())
        self.optimizer_c = self.adam(self.classifier.parameters())
        self.optimizer_s = self.adam(self.style_classifier.parameters())

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        return super().hparam_table(dataset) | {"sag_w_adv": Hparam(0.1, log10_uniform(-2, 1))}

    def update(self, minibatches: Minibatches, unlabeled: Sequence[Tensor] | None = None) -> Values:
        first = self.forward_domains(minibatches)
        labels = first.all_labels
        loss_c = F.cross_entropy(self.classifier(randomize_style(torch.cat(first.features))), labels)
        self.descend(sum(first.routing_losses.values(), start=loss_c), self.optimizer_f, self.optimizer_c)

        with torch.no_grad():
            features = torch.cat(self.forward_domains(minibatches).features)
        loss_s = F.cross_entropy(self.style_classifier(randomize_content(features)), labels)
        self.descend(loss_s, self.optimizer_s)

        third = self.forward_domains(minibatches)
        style_logits = self.style_classifier(randomize_content(torch.cat(third.features)))
        loss_adv = -self.hparams["sag_w_adv"] * F.log_softmax(style_logits, 1).mean()
        self.descend(sum(third.routing_losses.values(), start=loss_adv), self.optimizer_f)

        losses = {"loss_c": loss_c, "loss_s": loss_s, "loss_adv": loss_adv}
        losses |= mean_losses([first.routing_losses, third.routing_losses])
        return unread(losses)


EPSILON = 1e-5


def randomize_style(x: Tensor) -> Tensor:
    """Features [B, D] whose mean and variance per row are mixed with those of another row."""
    share, other = _draw(x)
    mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True)
    content = (x - mean) / (var + EPSILON).sqrt()
    mean = share * mean + (1 - share) * mean[other]
    var = share * var + (1 - share) * var[other]
    return content * (var + EPSILON).sqrt() + mean


def randomize_content(x: Tensor) -> Tensor:
    """Features [B, D]: the mean and variance of each row with the normalised values (detached) of another."""
    _, other = _draw(x)
    mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True)
    content = (x - mean) / (var + EPSILON).sqrt()
    return content[other].detach() * (var + EPSILON).sqrt() + mean


def _draw(x: Tensor) -> tuple[Tensor, Tensor]:
    """The share of a row's own style [B, 1] and the index of the other row [B], drawn on the CPU as in DomainBed."""
    return from_host(torch.rand(len(x), 1).to(x.dtype), x), from_host(torch.randperm(len(x)), x)
