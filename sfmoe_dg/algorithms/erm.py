"""Empirical risk minimisation, the base class of objectives that add a penalty to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfmoe_dg.algorithms.base import PARALLEL_MODES, Algorithm, Forward, Minibatches, Values
from sfmoe_dg.models.backbones import build_backbone


class ERM(Algorithm):
    """Minimise the mean cross-entropy over the images of all training domains.

    Subclasses override :meth:`objective`. They set ``one_pass = False`` where DomainBed runs the network once per
    domain, so that batch normalisation uses the statistics of one domain.

    Examples:
        >>> import torch
        >>> from sfmoe_dg import ERM, default_hparams
        >>> class ShortFeatures(ERM):
        ...     def objective(self, forward):
        ...         loss, logged = super().objective(forward)
        ...         penalty = torch.cat(forward.features).pow(2).mean()
        ...         return loss + 0.001 * penalty, logged | {"penalty": penalty}
        >>> algorithm = ShortFeatures((3, 32, 32), 10, 1, default_hparams("ERM", "StyledDigits"))
        >>> sorted(algorithm.update([(torch.rand(4, 3, 32, 32), torch.arange(4))]))
        ['loss', 'penalty']
    """

    paper = "Vapnik, Statistical Learning Theory, 1998"
    parallel_modes = PARALLEL_MODES
    one_pass: ClassVar[bool] = True

    def __init__(
        self, input_shape: tuple[int, ...], num_classes: int, num_domains: int, hparams: dict[str, Any]
    ) -> None:
        super().__init__(input_shape, num_classes, num_domains, hparams)
        self.featurizer = build_backbone(self.input_shape, hparams, num_domains=num_domains)
        self.classifier = make_classifier(self.featurizer.n_outputs, num_classes, hparams["nonlinear_classifier"])
        self.network = nn.Sequential(self.featurizer, self.classifier)
        self.optimizer = self.adam(self.network.parameters())

    def objective(self, forward: Forward) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to minimise, and further scalars to log."""
        return F.cross_entropy(forward.all_logits, forward.all_labels), {}

    def update(self, minibatches: Minibatches, unlabeled: Sequence[Tensor] | None = None) -> Values:
        forward = self.forward_domains(minibatches)
        loss, logged = self.objective(forward)
        return self.step(self.optimizer, loss, forward.routing_losses, **logged)

    def forward_domains(self, minibatches: Minibatches) -> Forward:
        """Features and logits of every domain, gathered from all processes if several share the minibatches."""
        images = [x for x, _ in minibatches]
        features, logits, losses = (self.run_passes if self.parallel is None else self.parallel.run)(images)
        sizes = [len(x) for x in images]
        forward = Forward(
            features=list(features.split(sizes)),
            logits=list(logits.split(sizes)),
            labels=[y for _, y in minibatches],
            routing_losses=losses,
        )
        return forward if self.parallel is None else self.parallel.gather_all(forward)

    def run_passes(self, images: list[Tensor]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Features, logits and routing losses of all images, from one pass over all domains or one pass per domain."""
        domains = [torch.full((len(x),), i, device=x.device) for i, x in enumerate(images)]
        batches = [(torch.cat(images), torch.cat(domains))] if self.one_pass else zip(images, domains, strict=True)
        passes = [self.featurizer.forward_with_losses(x, d) for x, d in batches]
        features = torch.cat([features for features, _ in passes])
        return features, self.classifier(features), mean_losses([losses for _, losses in passes])

    def predict(self, x: Tensor) -> Tensor:
        return self.network(x)


def mean_losses(passes: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Routing losses averaged over passes, so that their weight does not depend on the number of passes."""
    return {name: torch.stack([losses[name] for losses in passes]).mean() for name in passes[0]}


def make_classifier(in_features: int, num_classes: int, nonlinear: bool) -> nn.Module:
    """A linear classifier, or DomainBed's classifier of three layers, which halves the width twice."""
    if not nonlinear:
        return nn.Linear(in_features, num_classes)
    half, quarter = in_features // 2, in_features // 4
    return nn.Sequential(
        nn.Linear(in_features, half), nn.ReLU(), nn.Linear(half, quarter), nn.ReLU(), nn.Linear(quarter, num_classes)
    )
