"""Fish: train on one domain after the other, then go part of the way."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sfmoe_dg.algorithms.base import Minibatches, Values
from sfmoe_dg.algorithms.erm import ERM
from sfmoe_dg.algorithms.shared.domains import run_domain
from sfmoe_dg.runs.hparams import Hparam, choice


class Fish(ERM):
    """Take one optimiser step per domain, then move the original weights by the share ``meta_lr`` of the way.

    To first order this maximises the inner products of the domains' gradients. Source: the paper's algorithm 2. As in
    DomainBed, the optimiser keeps its running moments from one update to the next. Floating-point buffers move by the
    same share; integer buffers keep their last value.
    """

    paper = "Shi et al., Gradient Matching for Domain Generalization, 2021"

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        return super().hparam_table(dataset) | {"meta_lr": Hparam(0.5, choice(0.05, 0.1, 0.5))}

    def update(self, minibatches: Minibatches, unlabeled: Sequence[Tensor] | None = None) -> Values:
        start = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        values: Values = {}
        for domain, (x, y) in enumerate(minibatches):
            logits, losses = run_domain(self.network, x, domain)
            values = self.step(self.optimizer, F.cross_entropy(logits, y), losses)
        self._go_back(start)
        return values

    @torch.no_grad()
    def _go_back(self, start: dict[str, Tensor]) -> None:
        for name, value in self.network.state_dict().items():
            if value.is_floating_point():
                value.copy_(start[name] + self.hparams["meta_lr"] * (value - start[name]))
