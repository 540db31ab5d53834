"""Adaptive risk minimisation (ARM): the network also sees a summary of the other images of the batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sfmoe_dg.algorithms.base import Forward, Minibatches
from sfmoe_dg.algorithms.common_hparams import SMALL_IMAGES
from sfmoe_dg.algorithms.erm import ERM
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.runs.hparams import Hparam


class ARM(ERM):
    """Minimise the cross-entropy of a network whose input has one more channel, computed from a set of images.

    The channel is the output of a context network, averaged over the support set. This is ARM-CML, as in DomainBed: a
    support set is ``batch_size`` consecutive images, in training the minibatch of one domain. A batch whose size is
    no multiple of ``batch_size`` is one support set. Evaluation shuffles the images, because in the order of their
    folders all images of a support set would have the same class.

    The context network is not trained: DomainBed creates it after the optimiser, which therefore does not know its
    parameters. This is kept, so that results can be compared with published ones. Its weights are frozen, which saves
    computing their gradients; the running statistics of its batch norms change. ``arm_train_context`` trains it.
    """

    paper = "Zhang et al., Adaptive Risk Minimization: Learning to Adapt to Domain Shift, 2021"
    needs = "pictures, not vectors"
    predicts_in_context = True

    def __init__(
        self, input_shape: tuple[int, ...], num_classes: int, num_domains: int, hparams: dict[str, Any]
    ) -> None:
        if len(input_shape) != 3:
            raise UserError(
                f"ARM's context network is convolutional and needs pictures, but the input shape is "
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
        return table if dataset in SMALL_IMAGES else table | {"batch_size": Hparam(8, low=1)}

    @property
    def normalization(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The backbone's, without the context channel."""
        mean, std = super().normalization
        published = getattr(self.featurizer.network, "pretrained_cfg", None) or {}
        channels = self.input_shape[0]
        if len(published.get("mean") or ()) == channels:
            return tuple(published["mean"]), tuple(published["std"])
        return mean[:channels], std[:channels]

    def with_context(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] → [B, C + 1, H, W]; the last channel is the mean context of the image's support set."""
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
    """Three 5 × 5 convolutions that keep the image size and end in one channel, with batch norm and ReLU between."""
    layers: list[nn.Module] = []
    for width in (64, 64):
        layers += [nn.Conv2d(channels, width, 5, padding=2), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.Conv2d(channels, 1, 5, padding=2))
