"""Adaptive compute: accuracy of a trained mixture of experts with smaller buffers or fewer experts per token.

K, capacity ratio and allocation have no parameters, so one trained model is evaluated with many values of them without
training. Source: V-MoE (arXiv 2106.05974), section 4: vanilla against batch priority routing (BPR).

Legend: B images, T tokens of a batch, S tokens of one image, K choices, R capacity ratios, L layers, h×w patches.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sfmoe_dg.algorithms.base import Algorithm
from sfmoe_dg.analysis.subject.observations import name_of_call
from sfmoe_dg.analysis.subject.predicting import Batches, evaluating, predicting_featurizer
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.models.moe.layers import moe_layers, routing_set
from sfmoe_dg.models.moe.trace import LayerTrace, routing_trace
from sfmoe_dg.training.evaluate import is_correct

RATIOS = (0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
ALLOCATIONS = ("vanilla", "batch_priority")


def accuracy_against_capacity(
    algorithm: Algorithm,
    batches: Batches,
    *,
    ratios: Sequence[float | None] = (*RATIOS, None),
    ks: Sequence[int] | None = None,
    allocations: Sequence[str] = ALLOCATIONS,
    **others: Any,
) -> pd.DataFrame:
    """Evaluate one trained model under every combination of K, capacity ratio and allocation.

    Args:
        batches: read once and kept. With a capacity limit the result of an image depends on its batch, so all
            combinations see the same batches.
        ratios: capacity as a multiple of K·tokens/E; None drops nothing. Without drops the allocation has no effect,
            and the row has the allocation 'dropless'.
        ks: choices per token; default the model's own.
        others: further routing options, such as ``group="image"``, which makes an image's result independent of its
            batch.

    Returns:
        columns ``k``, ``capacity_ratio`` (NaN: dropless), ``allocation``, ``accuracy``, ``stderr`` (binomial),
        ``images``, and over all layers: ``assignments_kept`` (share of the K·T assignments), ``tokens_kept`` (share of
        tokens that reach at least one expert), ``gate_kept`` (mean over tokens of the kept combine weights).

    Raises:
        UserError: if the model has no experts, a value is not allowed, or there is no image.
    """
    kept_batches = list(batches)
    if not kept_batches:
        raise UserError("there is no image to evaluate")
    network = predicting_featurizer(algorithm, kept_batches[0][0])
    layers = moe_layers(network)
    if not layers:
        raise UserError("this model has no mixture-of-experts layer, so there is no capacity to change")
    rows = []
    for k, ratio, allocation in _settings(ks or [layers[0][1].options.top_k], ratios, allocations):
        setting = {"k": k, "capacity_ratio": np.nan if ratio is None else ratio, "allocation": allocation}
        known = "vanilla" if ratio is None else allocation
        with routing_set(network, k=k, capacity_ratio=ratio, allocation=known, **others):
            rows.append(setting | _evaluate(algorithm, network, kept_batches))
    return pd.DataFrame(rows)


def _settings(
    ks: Sequence[int], ratios: Sequence[float | None], allocations: Sequence[str]
) -> Iterator[tuple[int, float | None, str]]:
    for k, ratio in product(ks, ratios):
        for allocation in ("dropless",) if ratio is None else allocations:
            yield k, ratio, allocation


def _evaluate(
    algorithm: Algorithm, network: torch.nn.Module, batches: Sequence[tuple[Tensor, Tensor]]
) -> dict[str, Any]:
    counts: defaultdict[str, float] = defaultdict(float)

    def count(trace: LayerTrace) -> None:
        counts["assignments"] += trace.kept.size
        counts["assignments_kept"] += trace.kept.sum()
        counts["tokens"] += trace.kept[..., 0].size
        counts["tokens_kept"] += trace.kept.any(-1).sum()
        counts["gate_kept"] += trace.gates.sum(dtype=np.float64)

    correct = []
    with evaluating(algorithm), torch.no_grad(), routing_trace(network, count, gate_dtype=torch.float32):
        for x, y in batches:
            with algorithm.precision.autocast():
                correct.append(is_correct(algorithm.predict(x), y).cpu().numpy())
    right = np.concatenate(correct)
    accuracy = float(right.mean())
    return {
        "accuracy": accuracy,
        "stderr": float(np.sqrt(accuracy * (1 - accuracy) / len(right))),
        "images": len(right),
        "assignments_kept": counts["assignments_kept"] / counts["assignments"],
        "tokens_kept": counts["tokens_kept"] / counts["tokens"],
        "gate_kept": counts["gate_kept"] / counts["tokens"],
    }


def dropped_patches(
    network: Any, x: Tensor, ratios: Sequence[float], *, allocation: str = "batch_priority", **others: Any
) -> dict[str, np.ndarray]:
    """Which patches reach no expert at all, per layer and capacity ratio: layer → bool [R, B, h, w].

    Class and register tokens compete for the buffers too, but are not in the result. In the first layer with experts a
    patch that is dropped at one ratio is dropped at every smaller one. In deeper layers this need not hold, because
    earlier drops change their input.
    A layer that runs several times in one pass (WideNet) is ``name``, ``name#2``, …

    Args:
        network: a vision transformer with experts; evaluated, not trained.
        x: images [B, C, H, W], one batch. All its tokens compete for the buffers unless ``group="image"``.
        allocation, others: as in :func:`accuracy_against_capacity`.
    """
    per_ratio = []
    for ratio in ratios:
        traces: list[LayerTrace] = []
        with (
            evaluating(network),
            torch.no_grad(),
            routing_set(network, capacity_ratio=ratio, allocation=allocation, **others),
            routing_trace(network, traces.append),
        ):
            network(x)
        per_ratio.append(traces)
    height, width = network.patch_embed.grid_size
    calls: Counter[str] = Counter()
    result = {}
    for position, first in enumerate(per_ratio[0]):
        name = name_of_call(calls, first.layer)
        dropped = np.stack([~traces[position].kept.any(-1) for traces in per_ratio])
        result[name] = dropped[:, :, -height * width :].reshape(len(ratios), -1, height, width)
    return result


def first_dropped(dropped: np.ndarray, ratios: Sequence[float]) -> np.ndarray:
    """The largest ratio at which each patch is dropped, float64 [B, h, w]; 0 for patches that are never dropped.

    Args:
        dropped: bool [R, B, h, w] of one layer, as :func:`dropped_patches` returns it.
        ratios: the same as there.
    """
    weights = np.asarray(ratios, dtype=np.float64).reshape(-1, 1, 1, 1)
    return np.where(dropped, weights, 0.0).max(axis=0)


def drops_on_object(dropped: np.ndarray, ratios: Sequence[float], on_object: np.ndarray) -> pd.DataFrame:
    """Shares of dropped patches on the object and on the background, one row per ratio.

    Args:
        dropped: bool [R, B, h, w] of one layer.
        on_object: bool [B, h, w], patches that show the object, such as a digit's stroke or a bird's box.

    Returns:
        columns ``capacity_ratio``, ``object`` and ``background`` (share of their patches that is dropped; NaN if there
        are none), ``dropped`` (share of all patches).
    """
    rows = []
    for ratio, drops in zip(ratios, dropped, strict=True):
        parts = {"object": drops[on_object], "background": drops[~on_object], "dropped": drops}
        shares = {name: float(part.mean()) if part.size else np.nan for name, part in parts.items()}
        rows.append({"capacity_ratio": ratio, **shares})
    return pd.DataFrame(rows)
