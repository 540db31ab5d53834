"""ERM++: train the classifier first, then everything, and predict with averaged weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfmoe_dg.algorithms.base import Minibatches, Values
from sfmoe_dg.algorithms.erm import ERM
from sfmoe_dg.algorithms.shared.averages import MovingAverage
from sfmoe_dg.algorithms.shared.optimisation import refuse_layer_decay
from sfmoe_dg.runs.hparams import Hparam, log10_uniform

SMA_START = 600
"""The number of the update from which on weights are averaged (DomainBed)."""


class ERMPlusPlus(ERM):
    """Minimise cross-entropy: the classifier alone for ``linear_steps`` + 1 updates at ``linear_lr``, then everything.

    Predictions come from an average of the weights. Every training batch passes through the averaged network, so that
    its batch norms have statistics of their own (not with ``freeze_bn``).

    Follows DomainBed's algorithm under its standard training script. Its second script, which tunes learning rates and
    the length of training on validation data, is not included. Differences: ``lars`` works, which in DomainBed fails
    with an unexpected argument; the backbone runs without gradients while only the classifier is trained; a network
    without batch norm does not run the extra pass through the average.
    """

    paper = "Teterwak et al., ERM++: An Improved Baseline for Domain Generalization, 2023"

    def __init__(
        self, input_shape: tuple[int, ...], num_classes: int, num_domains: int, hparams: dict[str, Any]
    ) -> None:
        super().__init__(input_shape, num_classes, num_domains, hparams)
        self.average = MovingAverage(self.network, SMA_START)
        self.has_batch_norm = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in self.network.modules())
        decay = hparams["weight_decay"]
        kind = LARS if hparams["lars"] else torch.optim.Adam
        self.linear_optimizer = kind(self.classifier.parameters(), lr=hparams["linear_lr"], weight_decay=decay)
        if hparams["lars"]:
            self.optimizer = LARS(self.network.parameters(), lr=hparams["lr"], weight_decay=decay)

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        return super().hparam_table(dataset) | {"linear_lr": Hparam(5e-5, log10_uniform(-5, -3.5), above=0)}

    @classmethod
    def check_hparams(cls, hparams: dict[str, Any], where: str) -> None:
        super().check_hparams(hparams, where)
        if hparams["lars"]:
            refuse_layer_decay(hparams, f"{cls.__name__} with 'lars'", where)

    def update(self, minibatches: Minibatches, unlabeled: Sequence[Tensor] | None = None) -> Values:
        if self.average.num_updates > self.hparams["linear_steps"]:
            values = super().update(minibatches)
        else:
            with torch.no_grad():
                forward = self.forward_domains(minibatches)
            loss = F.cross_entropy(self.classifier(torch.cat(forward.features)), forward.all_labels)
            values = self.step(self.linear_optimizer, loss, forward.routing_losses)
        self.average.update(self.network)
        if self.has_batch_norm and not self.hparams["freeze_bn"]:
            with torch.no_grad():
                self.average.network.train()(torch.cat([x for x, _ in minibatches]))
        return values

    def predict(self, x: Tensor) -> Tensor:
        return self.average(x)


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rates with momentum. Vectors (biases and norms) are neither rescaled nor decayed.

    Source: You et al., Large Batch Training of Convolutional Networks, 2017, with MoCo v3's settings, as in DomainBed.
    """

    def __init__(self, params: Any, lr: float, weight_decay: float = 0.0, momentum: float = 0.9) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "trust": 0.001})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)

    def _move(self, parameter: Tensor, group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        change = parameter.grad
        if parameter.dim() > 1:
            change = change + group["weight_decay"] * parameter
            size, step = parameter.norm(), change.norm()
            change = change * torch.where((size > 0) & (step > 0), group["trust"] * size / step, 1.0)
        velocity = self.state[parameter].setdefault("mu", torch.zeros_like(parameter))
        velocity.mul_(group["momentum"]).add_(change)
        parameter.add_(velocity, alpha=-group["lr"])
