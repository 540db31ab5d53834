"""Run five updates from weights and minibatches that depend only on a seed, for comparison with golden numbers.

Nothing here comes from a constructor's random state: parameter number i (in the order of ``parameters()``) is drawn
from a generator seeded by i, minibatch d of step s by (s, d), and torch, NumPy and ``random`` are seeded anew before
every update. Any class with DomainBed's interface, DomainBed's own included, therefore starts from the same weights
if its parameters have the same order.

The golden files hold ``{algorithm: {"mlp" | "mnist_cnn": {"hparams": {...}, "predictions": [[...], ...]}}}``:
``hparams`` are the overrides of the defaults for RotatedMNIST beside :data:`COMMON`, ``predictions`` the logits of
:func:`probe` after the last update, in evaluation mode.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sfmoe_dg.algorithms.registry import ALGORITHMS, default_hparams

UPDATES = 5
NUM_DOMAINS = 3
NUM_CLASSES = 4
INPUT_SHAPES: dict[str, tuple[int, ...]] = {"mlp": (12,), "mnist_cnn": (1, 28, 28)}
BATCH_SIZES = {"mlp": 16, "mnist_cnn": 6}
COMMON: dict[str, Any] = {"lr": 1e-3, "weight_decay": 1e-4, "mlp_width": 16, "mlp_depth": 3, "mlp_dropout": 0.0}
"""What every trajectory sets beside its own overrides; a network without an MLP ignores the last three."""


def read_golden(name: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Read one of the golden files beside this module."""
    return json.loads((Path(__file__).parent / name).read_text(encoding="utf-8"))


def set_weights(parameters: Iterable[nn.Parameter]) -> None:
    """Fill every parameter from its position: uniform within ±1/sqrt(fan-in), vectors within ±0.1.

    The scales of normalisation layers, which are initialised to 1, are set to values within 0.1 of 1.
    """
    with torch.no_grad():
        for i, parameter in enumerate(parameters):
            generator = torch.Generator().manual_seed(1000 + i)
            noise = 2 * torch.rand(parameter.shape, generator=generator) - 1
            if parameter.dim() > 1:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(0.1 * noise + (1.0 if bool((parameter == 1).all()) else 0.0))


def minibatches(kind: str, step: int, num_domains: int = NUM_DOMAINS) -> list[tuple[Tensor, Tensor]]:
    """Inputs that depend on the class and on the domain, and every class in every minibatch."""
    return [_minibatch(kind, seed=10 * step + domain, shift=0.3 * domain) for domain in range(num_domains)]


def probe(kind: str) -> Tensor:
    """Four inputs that no update has seen."""
    return _minibatch(kind, seed=9999, shift=0.5)[0][:4]


def _minibatch(kind: str, seed: int, shift: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    size, shape = BATCH_SIZES[kind], INPUT_SHAPES[kind]
    y = torch.arange(size)[torch.randperm(size, generator=generator)] % NUM_CLASSES
    noise = torch.rand(size, *shape, generator=generator)
    return noise + 0.2 * y.view(-1, *[1] * len(shape)) + shift, y


def predictions_after_updates(algorithm: Any, kind: str, num_updates: int = UPDATES) -> list[list[float]]:
    """Update anything with DomainBed's interface, then predict; NaN and infinity are returned as they are.

    The inputs have the type of the algorithm's weights.
    """
    dtype = next(algorithm.parameters()).dtype
    algorithm.train()
    for step in range(num_updates):
        torch.manual_seed(step)
        np.random.seed(step)
        random.seed(step)
        algorithm.update([(x.to(dtype), y) for x, y in minibatches(kind, step)])
    algorithm.eval()
    with torch.no_grad():
        return algorithm.predict(probe(kind).to(dtype)).tolist()


def make(name: str, kind: str, overrides: dict[str, Any]) -> Any:
    """Make one of our algorithms with weights from :func:`set_weights`."""
    hparams = default_hparams(name, "RotatedMNIST") | {"backbone": kind} | COMMON | overrides
    algorithm = ALGORITHMS.load(name)(INPUT_SHAPES[kind], NUM_CLASSES, NUM_DOMAINS, hparams)
    set_weights(algorithm.parameters())
    return algorithm


def trajectory(name: str, kind: str, overrides: dict[str, Any]) -> list[list[float]]:
    """The numbers to compare with a golden file's ``predictions``."""
    return predictions_after_updates(make(name, kind, overrides), kind)
