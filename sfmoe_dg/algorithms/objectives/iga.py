"""IGA: match the gradients of the domains."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from sfmoe_dg.algorithms.base import Minibatches, Values
from sfmoe_dg.algorithms.erm import ERM, mean_losses
from sfmoe_dg.algorithms.shared.domains import run_domain
from sfmoe_dg.algorithms.shared.gradients import gradients, trainable
from sfmoe_dg.runs.hparams import Hparam, log10_uniform


class IGA(ERM):
    """Minimise the mean risk plus ``penalty`` times the squared distances of the domains' gradients from their mean.

    Follows DomainBed: distances are summed over weights and domains, and the mean gradient is treated as constant.
    Attention uses PyTorch's "math" kernel, the only one that can be differentiated twice.
    """

    paper = "Koyama and Yamaguchi, Out-of-Distribution Generalization with Maximal Invariant Predictor, 2020"
    needs = "second derivatives of the whole backbone"
    cannot_compile = "takes second derivatives of the whole backbone"

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        return super().hparam_table(dataset) | {"penalty": Hparam(1000, log10_uniform(1, 5), types=(float,))}

    def update(self, minibatches: Minibatches, unlabeled: Sequence[Tensor] | None = None) -> Values:
        parameters = trainable(self.network)
        with sdpa_kernel(SDPBackend.MATH):
            passes = [run_domain(self.network, x, domain) for domain, (x, _) in enumerate(minibatches)]
            risks = [F.cross_entropy(z, y) for (z, _), (_, y) in zip(passes, minibatches, strict=True)]
            by_domain = [gradients(risk, parameters, self.precision, create_graph=True) for risk in risks]
            squares: list[Tensor] = []
            for group in zip(*by_domain, strict=True):
                mean = torch.stack([gradient.detach() for gradient in group]).mean(0)
                squares.extend((gradient - mean).square().sum() for gradient in group)
            risk, penalty = torch.stack(risks).mean(), torch.stack(squares).sum()
            loss = risk + self.hparams["penalty"] * penalty
            return self.step(
                self.optimizer, loss, mean_losses([losses for _, losses in passes]), nll=risk, penalty=penalty
            )
