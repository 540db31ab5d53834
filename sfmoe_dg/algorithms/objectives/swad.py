"""SWAD: ERM that predicts with the mean of the weights over the valley of the validation loss."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sfmoe_dg.algorithms.base import Minibatches, Values
from sfmoe_dg.algorithms.erm import ERM
from sfmoe_dg.algorithms.shared.averages import LossValley, RunningMean, move_towards, tensors
from sfmoe_dg.runs.hparams import Hparam


class SWAD(ERM):
    """Minimise cross-entropy, and predict with the mean of the weights while the validation loss is near its minimum.

    The validation loss is that of the weights being trained, on the training domains' out-splits without augmentation,
    at every evaluation. The paper evaluates every 100 updates (VLCS 50, DomainNet 500, which it trains for 15,001
    updates): set ``checkpoint_freq`` and ``steps`` accordingly. :class:`LossValley` decides which updates are averaged.

    The accuracies of an evaluation are those of the model that SWAD would return if training ended there: the mean over
    the valley, or over the latest interval before the valley begins. Once the valley has ended, updates do nothing and
    the accuracies no longer change.

    The authors freeze batch norm (``freeze_bn``). Without that, its running statistics are averaged like weights, where
    the authors estimate them anew from 500 batches.
    """

    paper = "Cha et al., SWAD: Domain Generalization by Seeking Flat Minima, 2021"
    parallel_modes = ("ddp",)
    on_host = ("averaged",)
    averaged: Tensor

    def __init__(
        self, input_shape: tuple[int, ...], num_classes: int, num_domains: int, hparams: dict[str, Any]
    ) -> None:
        super().__init__(input_shape, num_classes, num_domains, hparams)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.register_buffer("averaged", torch.tensor(False))
        self.segment = RunningMean()
        self.valley = LossValley(
            hparams["swad_n_converge"], hparams["swad_n_tolerance"], hparams["swad_tolerance_ratio"]
        )

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        """The settings of the paper (section 4.1) and of the authors' scripts, which search none of them."""
        return super().hparam_table(dataset) | {
            "swad_n_converge": Hparam(3, low=1),
            "swad_n_tolerance": Hparam(6, low=1),
            "swad_tolerance_ratio": Hparam(0.2 if dataset == "VLCS" else 0.3, above=0),
        }

    @property
    def needs_validation_loss(self) -> bool:  # type: ignore[override]
        return not self.valley.over

    def update(self, minibatches: Minibatches, unlabeled: Sequence[Tensor] | None = None) -> Values:
        if self.valley.over:
            return {}
        values = super().update(minibatches)
        self.segment.add(tensors(self.network))
        return values

    def validation_logits(self, x: Tensor) -> Tensor:
        return self.network(x)

    def validated(self, loss: float) -> None:
        if self.segment.state is not None:
            # On the CPU, since the valley may keep as many copies as n_converge or n_tolerance.
            self.valley.add(loss, {name: value.cpu() for name, value in self.segment.state.items()})
        self.segment = RunningMean()
        mean = self.valley.average()
        if mean is not None:
            move_towards(tensors(self.average), mean, 1.0)
            self.averaged.fill_(True)

    def predict(self, x: Tensor) -> Tensor:
        return self.average.eval()(x) if self.averaged else self.network(x)
