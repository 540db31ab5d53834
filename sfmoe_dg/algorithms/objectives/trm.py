"""TRM: learn features on which the optimal classifier of one domain also works on the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfmoe_dg.algorithms.base import Forward, Minibatches, Values
from sfmoe_dg.algorithms.erm import ERM
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.models.moe.routers import full_precision_region
from sfmoe_dg.runs.hparams import Hparam, int_log10_uniform, log10_uniform

HEAD_STEPS = 30
"""The number of gradient descent steps that fit the heads in every update."""


class TRM(ERM):
    """Minimise cross-entropy plus the risk of each domain's own linear head on the other domains.

    The penalty starts after ``iters`` updates. Every domain has a linear head beside the classifier, fitted to the
    domain's features by :data:`HEAD_STEPS` steps in every update. The other domains are weighted by ``alpha``, which
    grows with their risk at the rate ``groupdro_eta``. A further term, weighted by ``cos_lambda``, accounts for the
    change of the heads with the features; its inverse Hessian is approximated by a Neumann series. Source: the paper's
    algorithm 1, as in DomainBed.

    Differences from DomainBed: runs without CUDA; heads and ``alpha`` are part of the saved model; the head that
    belongs to no domain is left out; a non-linear classifier, which DomainBed replaces by a linear one, is refused.
    """

    paper = "Xu and Jaakkola, Learning Representations that Support Robust Transfer of Predictors, 2021"
    waits_for_device = "reads how far its Neumann series has grown"
    needs = "a linear classifier"
    min_domains = 2
    update_count: Tensor
    alpha: Tensor

    def __init__(
        self, input_shape: tuple[int, ...], num_classes: int, num_domains: int, hparams: dict[str, Any]
    ) -> None:
        if hparams["nonlinear_classifier"]:
            raise UserError(
                "TRM takes Hessians by the weights of a linear classifier; set nonlinear_classifier to false"
            )
        super().__init__(input_shape, num_classes, num_domains, hparams)
        heads = [nn.Linear(self.featurizer.n_outputs, num_classes) for _ in range(num_domains)]
        self.heads: Sequence[nn.Linear] = nn.ModuleList(heads)  # type: ignore[assignment]
        self.register_buffer("update_count", torch.tensor([0]))
        self.register_buffer("alpha", torch.ones(num_domains, num_domains) - torch.eye(num_domains))

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        return super().hparam_table(dataset) | {
            "cos_lambda": Hparam(1e-4, log10_uniform(-5, 0)),
            "iters": Hparam(200, int_log10_uniform(0, 4)),
            "groupdro_eta": Hparam(1e-2, log10_uniform(-3, -1)),
        }

    def update(self, minibatches: Minibatches, unlabeled: Sequence[Tensor] | None = None) -> Values:
        forward = self.forward_domains(minibatches)
        risk = F.cross_entropy(forward.all_logits, forward.all_labels)
        transfer = risk.new_zeros(())
        if self.update_count.item() >= self.hparams["iters"]:
            # Half precision is too coarse for many small steps and second derivatives of the heads.
            with full_precision_region(risk):
                transfer = self._transfer_risk(forward)
        self.update_count += 1
        return self.step(self.optimizer, risk + transfer, forward.routing_losses, nll=risk, trm_loss=transfer)

    def _transfer_risk(self, forward: Forward) -> Tensor:
        features = [z.float() for z in forward.features]
        self._fit_heads([z.detach() for z in features], forward.labels)
        self.alpha /= self.alpha.sum(1, keepdim=True)
        risks = []
        for own, head in enumerate(self.heads):
            others = [d for d in range(self.num_domains) if d != own]
            elsewhere = torch.stack([F.cross_entropy(head(features[d]), forward.labels[d]) for d in others])
            here = F.cross_entropy(head(features[own]), forward.labels[own])
            alpha = self.alpha[own, others]
            gradient = torch.autograd.grad(here, head.weight, create_graph=True)[0].flatten()
            direction = torch.autograd.grad(alpha @ elsewhere, head.weight, retain_graph=True)[0].flatten()
            moved = inverse_hessian_times(direction, head, features[own].detach(), forward.labels[own])
            # The direction uses alpha before it grows, the risk alpha after it has grown. This gives upstream's
            # gradients: it changes alpha in place after recording it for the backward pass.
            alpha = alpha * (self.hparams["groupdro_eta"] * alpha * elsewhere.detach()).exp()
            self.alpha[own, others] = alpha
            risks.append(alpha @ elsewhere - self.hparams["cos_lambda"] * (moved @ gradient))
        return torch.stack(risks).mean()

    def _fit_heads(self, features: list[Tensor], labels: list[Tensor]) -> None:
        if self.hparams["class_balanced"]:
            # As upstream, start from the classifier, for domains with different label distributions.
            start = next(self.classifier.parameters()).detach()
            for head in self.heads:
                head.weight.data.copy_(start)
        # SGD keeps no state. A local variable, so that the learning-rate schedule does not apply to it.
        optimizer = torch.optim.SGD([p for head in self.heads for p in head.parameters()], lr=0.1)
        for _ in range(HEAD_STEPS):
            risks = [F.cross_entropy(h(z), y) for h, z, y in zip(self.heads, features, labels, strict=True)]
            optimizer.zero_grad()
            torch.stack(risks).sum().backward()
            optimizer.step()


def inverse_hessian_times(vector: Tensor, head: nn.Linear, features: Tensor, labels: Tensor) -> Tensor:
    """Approximate H⁻¹ · ``vector`` by ten terms of the Neumann series Σ (1 - H)ⁿ · ``vector``, without gradients.

    H is the Hessian of the risk with respect to the head's weights. The sum stops early when an entry exceeds 10. As in
    DomainBed, whose in-place subtraction also changes its running sum, the sum starts with the term n = 1 twice instead
    of the terms n = 0 and n = 1.
    """
    risk = F.cross_entropy(head(features), labels)
    gradient = torch.autograd.grad(risk, head.weight, create_graph=True)[0].flatten()
    total: Tensor | None = None
    for _ in range(10):
        product = torch.autograd.grad(gradient @ vector, head.weight, retain_graph=True)[0].flatten()
        vector = vector - product
        total = 2 * vector if total is None else total + vector
        if total.abs().max().item() > 10:
            break
    assert total is not None
    return total
