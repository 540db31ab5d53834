"""Domain discriminators, and whose turn it is to train: the discriminator's or the network's."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sfmoe_dg.models.architectures.mnist_cnn import MLP


def make_discriminator(in_features: int, num_domains: int, hparams: dict[str, Any]) -> nn.Module:
    """DomainBed's multi-layer perceptron from features to one logit per domain."""
    mlp = MLP(in_features, hparams["mlp_width"], hparams["mlp_depth"], hparams["mlp_dropout"])
    mlp.output = nn.Linear(hparams["mlp_width"], num_domains)
    mlp.num_features = num_domains
    return mlp


def takes_discriminator_turn(update_count: Tensor, d_steps_per_g_step: int) -> bool:
    """Whether update number ``update_count``, counted from 1, trains the discriminator.

    Examples:
        >>> import torch
        >>> [takes_discriminator_turn(torch.tensor(count), 2) for count in range(1, 7)]
        [True, False, True, True, False, True]
    """
    return int(update_count.item()) % (1 + d_steps_per_g_step) < d_steps_per_g_step
