"""Accuracy of every split of every domain, each image decoded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sfmoe_dg.algorithms.base import Algorithm
from sfmoe_dg.data.loaders import EvalLoader
from sfmoe_dg.data.splits import DomainSplit


def evaluate(algorithm: Algorithm, loader: EvalLoader, splits: Sequence[DomainSplit], step: int) -> dict[str, float]:
    """``env{i}_in_acc``, ``env{i}_out_acc`` and, where there are unlabeled splits, ``env{i}_uda_acc``.

    Upstream numbers the unlabeled splits by their position among the test domains, not by domain; so do we.
    The algorithm is left in training mode.
    """
    correct = [np.full(split.used.max() + 1, np.nan) for split in splits]
    algorithm.eval()
    with torch.inference_mode(), algorithm.precision.autocast():
        for batch in loader.batches(step):
            correct[batch.env][batch.indices] = is_correct(algorithm.predict(batch.x), batch.y).cpu().numpy()
    algorithm.train()
    results = {f"env{i}_in_acc": _mean(correct[i][split.in_]) for i, split in enumerate(splits)}
    results |= {f"env{i}_out_acc": _mean(correct[i][split.out]) for i, split in enumerate(splits)}
    with_uda = [(i, split) for i, split in enumerate(splits) if len(split.uda)]
    return results | {f"env{n}_uda_acc": _mean(correct[i][split.uda]) for n, (i, split) in enumerate(with_uda)}


def validation_loss(algorithm: Algorithm, loader: EvalLoader, step: int) -> float:
    """The mean over the loader's domains of the mean cross-entropy of ``validation_logits``."""

    def losses(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(algorithm.validation_logits(x).float(), y, reduction="none")

    return _mean_over_domains(algorithm, loader, step, losses)


def validation_accuracy(algorithm: Algorithm, loader: EvalLoader, step: int) -> float:
    """The mean over the loader's domains of the accuracy of ``predict``."""
    return _mean_over_domains(algorithm, loader, step, lambda x, y: is_correct(algorithm.predict(x), y))


def _mean_over_domains(
    algorithm: Algorithm, loader: EvalLoader, step: int, measure: Callable[[Tensor, Tensor], Tensor]
) -> float:
    """Of a number per image [B]. The algorithm is left in training mode."""
    measured: dict[int, list[np.ndarray]] = {}
    algorithm.eval()
    with torch.inference_mode(), algorithm.precision.autocast():
        for batch in loader.batches(step):
            measured.setdefault(batch.env, []).append(measure(batch.x, batch.y).cpu().numpy())
    algorithm.train()
    return float(np.mean([np.concatenate(values).mean() for values in measured.values()]))


def is_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Float [B] of 0 and 1; a single logit [B, 1] is a binary decision at 0, as upstream has it."""
    if logits.shape[1] == 1:
        return logits[:, 0].gt(0).eq(labels).float()
    return logits.argmax(1).eq(labels).float()


def _mean(values: np.ndarray) -> float:
    assert not np.isnan(values).any(), "an image of a split was not evaluated"
    return float(values.mean())
