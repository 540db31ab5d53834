"""URM: make features uniformly distributed, with a discriminator that compares them with uniform noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfmoe_dg.algorithms.base import Minibatches, Values
from sfmoe_dg.algorithms.common_hparams import LEARNS_FROM_SCRATCH
from sfmoe_dg.algorithms.erm import ERM
from sfmoe_dg.runs.hparams import Hparam, choice, log10_uniform, uniform

OUTPUTS: dict[str, tuple[type[nn.Module], float]] = {
    "tanh": (nn.Tanh, -1.0),
    "relu": (nn.ReLU, 0.0),
    "sigmoid": (nn.Sigmoid, 0.0),
}
"""The activation of the features, and the lower bound of the noise; the upper bound is 1."""


class URM(ERM):
    """Minimise cross-entropy plus ``urm_adv_lambda`` times an adversarial loss that makes features look like noise.

    The discriminator is trained after the network, on the same features and new noise. The features pass an activation
    with the same range as the noise. Follows DomainBed, without its restriction to four kinds of backbone.
    """

    paper = "Krishnamachari et al., Uniformly Distributed Feature Representations for Fair and Robust Learning, 2024"

    def __init__(
        self, input_shape: tuple[int, ...], num_classes: int, num_domains: int, hparams: dict[str, Any]
    ) -> None:
        super().__init__(input_shape, num_classes, num_domains, hparams)
        activation, self.lowest = OUTPUTS[hparams["urm_generator_output"]]
        # The activation follows dropout, the last layer of every featurizer.
        last: Any = nn.Sequential(self.featurizer.dropout, activation())
        self.featurizer.dropout = last
        layers: list[nn.Module] = [nn.Linear(self.featurizer.n_outputs, 100), nn.LeakyReLU()]
        for _ in range(hparams["urm_discriminator_hidden_layers"]):
            layers += [nn.Linear(100, 100), nn.LeakyReLU()]
        self.discriminator = nn.Sequential(*layers, nn.Linear(100, 1))
        settings = {"lr": hparams["urm_discriminator_lr"], "weight_decay": hparams["weight_decay"]}
        self.discriminator_opt: torch.optim.Optimizer
        if hparams["urm_discriminator_optimizer"] == "sgd":
            self.discriminator_opt = torch.optim.SGD(self.discriminator.parameters(), momentum=0.9, **settings)
        else:
            self.discriminator_opt = torch.optim.Adam(self.discriminator.parameters(), **settings)

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        table = super().hparam_table(dataset)
        small = dataset in LEARNS_FROM_SCRATCH
        rate, draw = (1e-3, log10_uniform(-5.5, -3.5)) if small else (5e-5, log10_uniform(-6, -4.5))
        return table | {
            "urm": Hparam("adversarial", choices=("adversarial",)),
            "urm_adv_lambda": Hparam(0.1, uniform(0, 0.2)),
            "urm_discriminator_label_smoothing": Hparam(0, uniform(0, 0), types=(float, int), low=0, high=1),
            "urm_discriminator_optimizer": Hparam("adam", choices=("adam", "sgd")),
            "urm_discriminator_hidden_layers": Hparam(1, choice(1, 2, 3), low=0),
            "urm_generator_output": Hparam("tanh", choice("tanh", "relu"), choices=tuple(OUTPUTS)),
            "urm_discriminator_lr": Hparam(rate, draw, above=0),
        }

    def update(self, minibatches: Minibatches, unlabeled: Sequence[Tensor] | None = None) -> Values:
        forward = self.forward_domains(minibatches)
        features = torch.cat(forward.features)
        as_noise = self.discriminator(features).squeeze(1)
        passing = F.binary_cross_entropy_with_logits(as_noise, torch.ones_like(as_noise))
        loss = F.cross_entropy(forward.all_logits, forward.all_labels) + self.hparams["urm_adv_lambda"] * passing
        values = self.step(self.optimizer, loss, forward.routing_losses)
        self._train_discriminator(features.detach())
        return values

    def _train_discriminator(self, features: Tensor) -> None:
        noise = (1 - self.lowest) * torch.rand_like(features) + self.lowest
        of_noise, of_features = self.discriminator(noise).squeeze(1), self.discriminator(features).squeeze(1)
        real, fake = torch.ones_like(of_noise), torch.zeros_like(of_features)
        smoothing = self.hparams["urm_discriminator_label_smoothing"]
        if smoothing:
            real = smoothing * torch.rand_like(real) + (1 - smoothing)
            fake = smoothing * torch.rand_like(fake)
        loss = F.binary_cross_entropy_with_logits(of_noise, real)
        loss = loss + self.hparams["urm_adv_lambda"] * F.binary_cross_entropy_with_logits(of_features, fake)
        self.descend(loss, self.discriminator_opt)
