"""Adaptive risk minimisation: the network sees, beside an image, what its neighbours in the batch look like."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sfmoe_dg.algorithms.base import Forward, Minibatches
from sfmoe_dg.algorithms.erm import ERM
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.runs.hparams import SMALL_IMAGES, Hparam


class ARM(ERM):
    """Cross-entropy of a network whose input has one more channel: the mean over a support set of a context network.

    ARM-CML, as in DomainBed: support sets are runs of ``batch_size`` images, which in training are the domains'
    minibatches; a batch that does not divide into them is one set. Evaluation therefore shuffles the images (in the
    order of their folders, the images of one class would be each other's context).

    The context network is not trained: upstream hands its optimiser the parameters before this one exists, so that it
    keeps its initial values, and so do we, for the sake of published results (here it is frozen, which spares its
    gradients; its batch norms see statistics). ``arm_train_context`` trains it.
    """

    paper = "Zhang et al., Adaptive Risk Minimization: Learning to Adapt to Domain Shift, 2021"
    needs = "pictures, not vectors"
    predicts_in_context = True

    def __init__(
        self, input_shape: tuple[int, ...], num_classes: int, num_domains: int, hparams: dict[str, Any]
    ) -> None:
        if len(input_shape) != 3:
            raise UserError(
                f"ARM's context network is convolutional and wants pictures, but the input shape is "
                f"{tuple(input_shape)}; for vectors use another algorithm"
            )
        channels, *size = input_shape
        super().__init__((channels + 1, *size), num_classes, num_domains, hparams)
        self.input_shape = tuple(input_shape)
        self.context_net = make_context_network(channels)
        if hparams["arm_train_context"]:
            self.optimizer = self.adam()
        else:
            self.context_net.requires_grad_(False)

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        table = super().hparam_table(dataset) | {"arm_train_context": Hparam(False)}
        return table if dataset in SMALL_IMAGES else table | {"batch_size": Hparam(8)}

    @property
    def normalization(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """That of the backbone without the context channel, which is not a picture's."""
        mean, std = super().normalization
        published = getattr(self.featurizer.network, "pretrained_cfg", None) or {}
        channels = self.input_shape[0]
        if len(published.get("mean") or ()) == channels:
            return tuple(published["mean"]), tuple(published["std"])
        return mean[:channels], std[:channels]

    def with_context(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] → [B, C + 1, H, W]: the mean context of every image's support set as last channel."""
        size = self.hparams["batch_size"] if len(x) % self.hparams["batch_size"] == 0 else len(x)
        sets = self.context_net(x).unflatten(0, (-1, size))
        context = sets.mean(1, keepdim=True).expand_as(sets).flatten(0, 1)
        return torch.cat([x, context], 1)

    def forward_domains(self, minibatches: Minibatches) -> Forward:
        images = self.with_context(torch.cat([x for x, _ in minibatches])).split([len(x) for x, _ in minibatches])
        return super().forward_domains([(x, y) for x, (_, y) in zip(images, minibatches, strict=True)])

    def predict(self, x: Tensor) -> Tensor:
        return self.network(self.with_context(x))


def make_context_network(channels: int) -> nn.Sequential:
    """Three 5×5 convolutions of unchanged size, to one channel; batch norm and ReLU between them."""
    layers: list[nn.Module] = []
    for width in (64, 64):
        layers += [nn.Conv2d(channels, width, 5, padding=2), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.Conv2d(channels, 1, 5, padding=2))
