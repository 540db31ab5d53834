"""SMA: ERM that predicts with the mean of the weights along training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from sfmoe_dg.algorithms.base import Minibatches, Values
from sfmoe_dg.algorithms.erm import ERM
from sfmoe_dg.algorithms.shared.averages import MovingAverage
from sfmoe_dg.runs.hparams import Hparam


class SMA(ERM):
    """Minimise cross-entropy, and predict with the mean of the weights over all updates from ``sma_start_iter`` on.

    Source: the paper, section 3.1, which starts at update 100. The running statistics of batch norm are averaged too,
    as in the authors' code.
    """

    paper = "Arpit et al., Ensemble of Averages: Improving Model Selection in Domain Generalization, 2022"
    parallel_modes = ("ddp",)

    def __init__(
        self, input_shape: tuple[int, ...], num_classes: int, num_domains: int, hparams: dict[str, Any]
    ) -> None:
        super().__init__(input_shape, num_classes, num_domains, hparams)
        self.average = MovingAverage(self.network, hparams["sma_start_iter"])

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        return super().hparam_table(dataset) | {"sma_start_iter": Hparam(100)}

    def update(self, minibatches: Minibatches, unlabeled: Sequence[Tensor] | None = None) -> Values:
        values = super().update(minibatches)
        self.average.update(self.network)
        return values

    def predict(self, x: Tensor) -> Tensor:
        return self.average(x)
