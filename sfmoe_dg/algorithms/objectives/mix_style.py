"""MixStyle: mix the channel statistics of feature maps between images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sfmoe_dg.algorithms.base import Forward, Minibatches
from sfmoe_dg.algorithms.erm import ERM
from sfmoe_dg.algorithms.shared.domains import domain_labels
from sfmoe_dg.algorithms.shared.host_draws import from_host
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.models.stages import conv_stages
from sfmoe_dg.runs.hparams import Hparam, choice

EPSILON = 1e-6
NUM_STAGES = 2


class MixStyle(ERM):
    """Minimise the cross-entropy of a network whose first two stages mix the style of their feature maps in training.

    After each of these stages, with probability ``mixstyle_p``, the mean and standard deviation per channel of every
    image are replaced by a mixture with those of another image: share · own + (1 - share) · other, with the share drawn
    from Beta(``mixstyle_alpha``, ``mixstyle_alpha``). With ``mixstyle_mix`` 'random' the other is any image of the
    batch, with 'crossdomain' an image of another domain.

    Source: the paper, section 3 and its settings (p 0.5, alpha 0.1, the first two residual stages). Only for
    convolutional backbones, as in the paper.
    """

    paper = "Zhou et al., Domain Generalization with MixStyle, 2021"
    needs = "a CNN (refuses transformers)"

    def __init__(
        self, input_shape: tuple[int, ...], num_classes: int, num_domains: int, hparams: dict[str, Any]
    ) -> None:
        super().__init__(input_shape, num_classes, num_domains, hparams)
        stages = conv_stages(self.featurizer.network)
        if not stages:
            raise UserError(
                "MixStyle mixes channel statistics of convolutional feature maps, and backbone "
                f"{hparams.get('backbone', 'auto')!r} has none that are known; use resnet18, resnet50 or mnist_cnn, "
                "or mix features of any backbone with SagNet"
            )
        self._domains: Tensor | None = None
        for stage in stages[:NUM_STAGES]:
            stage.register_forward_hook(self._mix)

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        return super().hparam_table(dataset) | {
            "mixstyle_p": Hparam(0.5, low=0, high=1),
            "mixstyle_alpha": Hparam(0.1, choice(0.1, 0.2, 0.3), above=0),
            "mixstyle_mix": Hparam("random", choices=("random", "crossdomain")),
        }

    def forward_domains(self, minibatches: Minibatches) -> Forward:
        # A hook sees the images alone, so the domains are passed to it here.
        self._domains = domain_labels(minibatches)
        try:
            return super().forward_domains(minibatches)
        finally:
            self._domains = None

    def _mix(self, module: nn.Module, args: Sequence[Any], output: Tensor) -> Tensor:
        domains = self._domains
        if domains is None or not self.training or torch.rand(()) >= self.hparams["mixstyle_p"]:
            return output
        alpha = torch.tensor(self.hparams["mixstyle_alpha"])
        share = torch.distributions.Beta(alpha, alpha).sample((len(output), 1, 1, 1))
        cross = self.hparams["mixstyle_mix"] == "crossdomain"
        others = other_domain(domains) if cross else from_host(torch.randperm(len(output)), output)
        return mix_styles(output, others, from_host(share, output))


def mix_styles(x: Tensor, others: Tensor, share: Tensor) -> Tensor:
    """Feature maps [B, C, H, W] with the style of image ``others[i]`` mixed into that of image i.

    Args:
        others: index of the other image, int64 [B].
        share: weight of the image's own mean and standard deviation, [B, 1, 1, 1].
    """
    own = x.detach().float()
    mean, deviation = own.mean((2, 3), keepdim=True), (own.var((2, 3), keepdim=True) + EPSILON).sqrt()
    new_mean = share * mean + (1 - share) * mean[others]
    new_deviation = share * deviation + (1 - share) * deviation[others]
    return ((x - mean) / deviation * new_deviation + new_mean).to(x.dtype)


def other_domain(domains: Tensor) -> Tensor:
    """For every image the index [B] of a random image of another domain; of any image if there is only one domain."""
    differs = domains[:, None].ne(domains).float()
    differs = torch.where(differs.any(1, keepdim=True), differs, 1.0)
    return torch.multinomial(differs, 1).squeeze(1)
