"""Finds the network that an algorithm predicts with. Methods such as SWAD and SMA keep several copies of a network.

Legend: B images, C, H, W channels, height and width of the input, F width of the features.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sfmoe_dg.algorithms.base import Algorithm
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.models.backbones import Featurizer

Batches = Iterable[tuple[Tensor, Tensor]]
"""Images [B, C, H, W] with their classes [B]."""


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the ``with`` block. Afterwards every submodule is in its mode from before."""
    before = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for m, training in before:
            m.training = training


def predicting_featurizer(algorithm: Algorithm, x: Tensor) -> Featurizer:
    """The backbone that :meth:`Algorithm.predict` calls, found by predicting ``x`` (one image will do).

    Raises:
        UserError: if a prediction runs through none of this package's backbones.
    """
    called: list[Featurizer] = []
    hooks = [
        module.register_forward_pre_hook(lambda m, args: called.append(m))
        for module in algorithm.modules()
        if isinstance(module, Featurizer)
    ]
    try:
        with evaluating(algorithm), torch.no_grad():
            algorithm.predict(x)
    finally:
        for hook in hooks:
            hook.remove()
    if not called:
        raise UserError(
            f"{type(algorithm).__name__} predicts without a backbone of this package, so there is nothing to look into"
        )
    return called[-1]


def vision_transformer(algorithm: Algorithm, x: Tensor) -> Any:
    """The vision transformer that a prediction of ``x`` runs through.

    Raises:
        UserError: if it runs through another kind of network.
    """
    network = predicting_featurizer(algorithm, x).network
    if not all(hasattr(network, name) for name in ("patch_embed", "blocks", "norm_pre", "norm")):
        raise UserError(f"{type(network).__name__} has no tokens; this analysis needs a vision transformer")
    return network


def features_and_logits(algorithm: Algorithm, batches: Batches) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, float64 [N, F], logits, float64 [N, classes], and true classes, int64 [N].

    Features and logits come from the same forward pass, because methods such as ARM and MTL predict from the whole
    batch. Nothing is trained, and no hook stays.
    """
    features, logits, labels = [], [], []
    featurizer: Featurizer | None = None
    for x, y in batches:
        featurizer = featurizer or predicting_featurizer(algorithm, x)
        seen: list[Tensor] = []
        hook = featurizer.register_forward_hook(lambda m, args, output, seen=seen: seen.append(output))
        try:
            with evaluating(algorithm), torch.no_grad(), algorithm.precision.autocast():
                logits.append(algorithm.predict(x).cpu().double().numpy())
        finally:
            hook.remove()
        features.append(seen[-1].cpu().double().numpy())
        labels.append(y.cpu().numpy().astype(np.int64))
    if not labels:
        raise UserError("there is no image to predict")
    return np.concatenate(features), np.concatenate(logits), np.concatenate(labels)
