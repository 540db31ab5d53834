"""MixStyle: train on feature maps whose channel statistics are mixed with another image's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sfmoe_dg.algorithms.base import Forward, Minibatches
from sfmoe_dg.algorithms.erm import ERM
from sfmoe_dg.algorithms.objectives.dann import domain_labels
from sfmoe_dg.algorithms.shared.gradients import from_host
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.models.stages import conv_stages
from sfmoe_dg.runs.hparams import Hparam, choice, require_positive

EPSILON = 1e-6
NUM_STAGES = 2


class MixStyle(ERM):
    """Cross-entropy of a network whose first two stages return, in training, maps of mixed style.

    After each of them, with probability ``mixstyle_p``, every image's mean and standard deviation per channel are
    replaced by a mixture with those of another image, by a weight drawn from Beta(``mixstyle_alpha``, same).
    ``mixstyle_mix``: 'random' takes any image of the batch, 'crossdomain' one of another domain.

    Source: the paper, section 3 and its settings (p 0.5, alpha 0.1, the first two residual stages). Convolutional
    backbones only: a transformer's tokens carry content where maps carry style, and the paper defines nothing there.
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
            "mixstyle_p": Hparam(0.5),
            "mixstyle_alpha": Hparam(0.1, choice(0.1, 0.2, 0.3)),
            "mixstyle_mix": Hparam("random", choices=("random", "crossdomain")),
        }

    @classmethod
    def check_hparams(cls, hparams: dict[str, Any], where: str) -> None:
        super().check_hparams(hparams, where)
        require_positive(hparams, ["mixstyle_alpha"], where)

    def forward_domains(self, minibatches: Minibatches) -> Forward:
        # Hooks are not told what the network is given beside the pictures.
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
    """Maps [B, C, H, W] with ``share`` [B, 1, 1, 1] of their own and the rest of ``others``' mean and deviation."""
    own = x.detach().float()
    mean, deviation = own.mean((2, 3), keepdim=True), (own.var((2, 3), keepdim=True) + EPSILON).sqrt()
    new_mean = share * mean + (1 - share) * mean[others]
    new_deviation = share * deviation + (1 - share) * deviation[others]
    return ((x - mean) / deviation * new_deviation + new_mean).to(x.dtype)


def other_domain(domains: Tensor) -> Tensor:
    """For every image [B] the index of a random image of another domain, or of any where there is but one domain."""
    differs = domains[:, None].ne(domains).float()
    differs = torch.where(differs.any(1, keepdim=True), differs, 1.0)
    return torch.multinomial(differs, 1).squeeze(1)
