"""Make algorithms with few weights, and minibatches of few pictures."""

from __future__ import annotations

import torch

from sfmoe_dg.algorithms.registry import ALGORITHMS, default_hparams


def side(backbone: str) -> int:
    """Pixels per side: the least that the backbone accepts, since bf16 convolutions are slow on many CPUs."""
    return 8 if backbone == "mnist_cnn" else 32


def make(name, backbone, num_domains=3, **overrides):
    torch.manual_seed(0)
    # With upstream's default tau of 1 SANDMask's mask is zero everywhere and no weight moves.
    learns = {"tau": 0.5} if name == "SANDMask" else {}
    hparams = default_hparams(name, "StyledDigits") | {"backbone": backbone, "pretrained": False} | learns | overrides
    return ALGORITHMS.load(name)((3, side(backbone), side(backbone)), 10, num_domains, hparams)


def minibatches(backbone, num_domains=3, size=4, pixels=None):
    generator = torch.Generator().manual_seed(1)
    shape = (size, 3, pixels or side(backbone), pixels or side(backbone))
    return [
        (torch.rand(shape, generator=generator), torch.randint(10, (size,), generator=generator))
        for _ in range(num_domains)
    ]
