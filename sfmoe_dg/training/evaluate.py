"""Accuracies on every split of every domain; each image is decoded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sfmoe_dg.algorithms.base import Algorithm
from sfmoe_dg.data.batches.loaders import EvalLoader, IndicesByDomain
from sfmoe_dg.data.splits import DomainSplit
from sfmoe_dg.foundation.processes import gather_all

Pulse = Callable[[], None]


def evaluate(
    algorithm: Algorithm,
    loader: EvalLoader,
    splits: Sequence[DomainSplit],
    step: int,
    pulse: Pulse = lambda: None,
    *,
    out_only: Sequence[int] = (),
) -> dict[str, float]:
    """``env{i}_in_acc``, ``env{i}_out_acc`` and, where there are unlabeled splits, ``env{i}_uda_acc``.

    Upstream numbers the unlabeled splits by their position among the test domains, not by domain; so do we.
    The algorithm is left in training mode.

    Args:
        pulse: called after every batch; if it raises, the evaluation ends.
        out_only: domains of which only the out-split is measured, and only its images are predicted, unless the
            algorithm's predictions depend on the other images of a batch.
    """
    correct = [np.full(split.used.max() + 1, np.nan) for split in splits]
    only = None if algorithm.predicts_in_context else {env: splits[env].out for env in out_only}
    for env, indices, values in _measure(
        algorithm, loader, step, lambda x, y: is_correct(algorithm.predict(x), y), pulse, only
    ):
        correct[env][indices] = values
    results = {f"env{i}_in_acc": _mean(correct[i][split.in_]) for i, split in enumerate(splits) if i not in out_only}
    results |= {f"env{i}_out_acc": _mean(correct[i][split.out]) for i, split in enumerate(splits)}
    with_uda = [(i, split) for i, split in enumerate(splits) if len(split.uda)]
    return results | {f"env{n}_uda_acc": _mean(correct[i][split.uda]) for n, (i, split) in enumerate(with_uda)}


def validation_loss(algorithm: Algorithm, loader: EvalLoader, step: int, pulse: Pulse = lambda: None) -> float:
    """The cross-entropy of ``validation_logits``: the mean over images, then over the loader's domains."""

    def losses(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(algorithm.validation_logits(x).float(), y, reduction="none")

    return _mean_over_domains(algorithm, loader, step, losses, pulse)


def validation_accuracy(algorithm: Algorithm, loader: EvalLoader, step: int) -> float:
    """The accuracy of ``predict``: the mean over images, then over the loader's domains."""
    return _mean_over_domains(algorithm, loader, step, lambda x, y: is_correct(algorithm.predict(x), y))


def _mean_over_domains(
    algorithm: Algorithm,
    loader: EvalLoader,
    step: int,
    measure: Callable[[Tensor, Tensor], Tensor],
    pulse: Pulse = lambda: None,
) -> float:
    """``measure`` gives a number per image [B]; their mean over images, then over domains."""
    measured: dict[int, list[np.ndarray]] = {}
    for env, _, values in _measure(algorithm, loader, step, measure, pulse):
        measured.setdefault(env, []).append(values)
    return float(np.mean([np.concatenate(values).mean() for values in measured.values()]))


def _measure(
    algorithm: Algorithm,
    loader: EvalLoader,
    step: int,
    measure: Callable[[Tensor, Tensor], Tensor],
    pulse: Pulse,
    only: IndicesByDomain | None = None,
) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """(domain, indices, a number per image) of every batch, also of the batches that other processes read."""
    measured = []
    algorithm.eval()
    # Weights fetched from other processes stay in memory; made in inference mode, they could not be trained on.
    without_gradients = torch.no_grad if loader.world.shared else torch.inference_mode
    for batch in loader.batches(step, only=only):
        with without_gradients(), algorithm.precision.autocast():
            measured.append((batch.env, batch.indices, measure(batch.x, batch.y).cpu().numpy()))
        pulse()
    algorithm.train()
    if not loader.world.shared:
        return measured
    # Process n % size read batch n, so this restores the order of one process. Batches that some processes read a
    # second time, to keep in step with the others, come last and are cut off.
    rounds = zip_longest(*gather_all(measured))
    return [batch for together in rounds for batch in together if batch is not None][: loader.num_batches(only)]


def predicted_classes(logits: Tensor) -> Tensor:
    """Int64 [B]. With a single logit [B, 1], classes 0 and 1 are divided at 0, as upstream does."""
    return logits.argmax(1) if logits.shape[1] > 1 else logits[:, 0].gt(0).long()


def is_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Float [B] of 0 and 1."""
    return predicted_classes(logits).eq(labels).float()


def _mean(values: np.ndarray) -> float:
    assert not np.isnan(values).any(), "an image of a split was not evaluated"
    return float(values.mean())
