"""Baselines for routing: shuffled routing, routing by position alone, and an untrained router.

A baseline returns observations (or a run) like any other, so every analysis can be computed for it.

Legend: N images, S patches.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch

from sfmoe_dg.algorithms.base import Algorithm
from sfmoe_dg.analysis.subject.observations import LayerRouting, Observations
from sfmoe_dg.analysis.subject.opened import OpenedRun
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.registry import unknown
from sfmoe_dg.foundation.seeds import generator
from sfmoe_dg.models.moe.layers import moe_layers

T = TypeVar("T", Algorithm, OpenedRun)


def shuffled(observations: Observations, keeping: str, seed: int = 0) -> Observations:
    """The same images with the patches' routing exchanged; class tokens keep theirs.

    Args:
        keeping: what stays as it was. "totals": how often each expert is used, nothing else (shuffled routing).
            "images": how often each image uses each expert, but not in which patches. "positions": how often each
            position of the grid uses each expert, but not in which images (position-only routing).
        seed: of the shuffling; one draw for all layers.

    Raises:
        UserError: on another ``keeping``.
    """
    if keeping not in _ORDERS:
        raise unknown("kind of shuffling", keeping, _ORDERS)
    num_patches = observations.grid[0] * observations.grid[1]
    random = generator("shuffled routing", keeping, seed)
    source = _ORDERS[keeping](len(observations), num_patches, random)
    prefix = observations.prefix
    layers = {name: _rerouted(layer, source, prefix) for name, layer in observations.layers.items()}
    return replace(observations, layers=layers)


def _anywhere(num_images: int, num_patches: int, random: np.random.Generator) -> np.ndarray:
    return random.permutation(num_images * num_patches).reshape(num_images, num_patches)


def _within_images(num_images: int, num_patches: int, random: np.random.Generator) -> np.ndarray:
    patch = random.permuted(np.tile(np.arange(num_patches), (num_images, 1)), axis=1)
    return np.arange(num_images)[:, None] * num_patches + patch


def _within_positions(num_images: int, num_patches: int, random: np.random.Generator) -> np.ndarray:
    image = random.permuted(np.tile(np.arange(num_images)[:, None], (1, num_patches)), axis=0)
    return image * num_patches + np.arange(num_patches)


_ORDERS: Mapping[str, Callable[[int, int, np.random.Generator], np.ndarray]] = {
    "totals": _anywhere,
    "images": _within_images,
    "positions": _within_positions,
}


def _rerouted(layer: LayerRouting, source: np.ndarray, prefix: int) -> LayerRouting:
    """Give patch (n, s) the routing of patch ``source[n, s]``, numbered over all images."""

    def move(values: np.ndarray) -> np.ndarray:
        patches = values[:, prefix:].reshape(-1, values.shape[-1])
        return np.concatenate([values[:, :prefix], patches[source]], axis=1)

    return replace(layer, experts=move(layer.experts), gates=move(layer.gates), kept=move(layer.kept))


def with_untrained_routers(trained: T, seed: int = 0) -> T:
    """A copy with newly initialised routers and all other weights as trained: only what the routers learned is missing.

    Features and experts are still trained. The baseline shows how well a random projection of good features already
    sorts patches.

    Args:
        trained: an algorithm, or an opened run (then observe the result).

    Raises:
        UserError: if no layer has a router that can be drawn anew.
    """
    if isinstance(trained, OpenedRun):
        return replace(trained, algorithm=with_untrained_routers(trained.algorithm, seed))
    algorithm = copy.deepcopy(trained)
    modules = (module for _, layer in moe_layers(algorithm) for module in layer.router.modules())
    routers: list[Any] = [module for module in modules if hasattr(module, "init_weights")]
    if not routers:
        raise UserError("this model has no router of a mixture of experts, so there is none to draw anew")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for router in routers:
            router.init_weights()
    return algorithm
