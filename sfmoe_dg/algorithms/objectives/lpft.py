"""LP-FT: linear probing, then fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sfmoe_dg.algorithms.base import Minibatches, Values
from sfmoe_dg.algorithms.erm import ERM
from sfmoe_dg.runs.hparams import Hparam, log10_uniform


class LPFT(ERM):
    """Minimise cross-entropy: the classifier alone for ``linear_steps`` updates at ``linear_lr``, then everything.

    In the first phase the backbone is frozen and in evaluation mode (no dropout, batch norm with its running
    statistics, MoE routing as in prediction), so that the classifier is trained on the pre-trained features; there are
    no routing losses. The paper solves the first phase to convergence on stored features; here the classifier sees
    augmented minibatches.
    """

    paper = "Kumar et al., Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution, 2022"
    needs = "a pre-trained backbone (the first phase trains the classifier on its features)"
    update_count: Tensor

    def __init__(
        self, input_shape: tuple[int, ...], num_classes: int, num_domains: int, hparams: dict[str, Any]
    ) -> None:
        super().__init__(input_shape, num_classes, num_domains, hparams)
        self.register_buffer("update_count", torch.tensor(0))
        self.linear_optimizer = torch.optim.Adam(self.classifier.parameters(), lr=hparams["linear_lr"])

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        return super().hparam_table(dataset) | {"linear_lr": Hparam(1e-3, log10_uniform(-4, -2), above=0)}

    def update(self, minibatches: Minibatches, unlabeled: Sequence[Tensor] | None = None) -> Values:
        self.update_count += 1
        if self.update_count > self.hparams["linear_steps"]:
            return super().update(minibatches)
        was_training = self.featurizer.training
        self.featurizer.eval()
        with torch.no_grad():
            forward = self.forward_domains(minibatches)
        self.featurizer.train(was_training)
        loss = F.cross_entropy(self.classifier(torch.cat(forward.features)), forward.all_labels)
        return self.step(self.linear_optimizer, loss, {})
