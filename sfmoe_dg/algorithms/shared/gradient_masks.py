"""The base class of objectives that mask the gradient where training domains disagree."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sfmoe_dg.algorithms.base import Minibatches, Values, wide
from sfmoe_dg.algorithms.erm import ERM
from sfmoe_dg.algorithms.shared.domains import run_domain
from sfmoe_dg.algorithms.shared.gradients import gradients, step_along, trainable


class MaskedGradients(ERM):
    """Step along the mean gradient of the domains' risks, times a mask, divided by the mean of the mask.

    Each parameter tensor has its own mask. The mean gradient of the routing losses is added without a mask, since these
    losses do not depend on the labels of a domain.
    """

    def mask(self, by_domain: Tensor) -> Tensor:
        """The mask of one parameter, [*shape] with values in [0, 1], from its gradients [domains, *shape]."""
        raise NotImplementedError

    def update(self, minibatches: Minibatches, unlabeled: Sequence[Tensor] | None = None) -> Values:
        parameters = trainable(self.network)
        risks, by_domain, routing = [], [], []
        passes: list[dict[str, Tensor]] = []
        for domain, (x, y) in enumerate(minibatches):
            logits, losses = run_domain(self.network, x, domain)
            risk = F.cross_entropy(logits, y)
            by_domain.append(gradients(risk, parameters, self.precision, retain_graph=bool(losses)))
            if losses:
                routing.append(gradients(torch.stack(list(losses.values())).sum(), parameters, self.precision))
            risks.append(wide(risk))
            passes.append({name: wide(loss) for name, loss in losses.items()})
        directions = [self._masked_mean(torch.stack(group)) for group in zip(*by_domain, strict=True)]
        for extra in routing:
            directions = [d + e / len(minibatches) for d, e in zip(directions, extra, strict=True)]
        step_along(self, self.optimizer, parameters, directions)
        means = {name: sum(p[name] for p in passes) / len(passes) for name in passes[0]}
        return {"loss": sum(risks) / len(risks)} | means

    def _masked_mean(self, by_domain: Tensor) -> Tensor:
        mask = self.mask(by_domain)
        return mask * by_domain.mean(0) / (1e-10 + mask.mean())
