"""Accuracy of every split of every domain, each image decoded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sfmoe_dg.algorithms.base import Algorithm
from sfmoe_dg.data.batches.loaders import EvalLoader, Only
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

    Of the domains ``out_only`` there is the accuracy on the out-split alone, and only that is predicted, unless an
    algorithm's predictions depend on what else is in a batch.

    Upstream numbers the unlabeled splits by their position among the test domains, not by domain; so do we.
    The algorithm is left in training mode. ``pulse`` is called after every batch; what it raises ends the evaluation.
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
    """The mean over the loader's domains of the mean cross-entropy of ``validation_logits``."""

    def losses(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(algorithm.validation_logits(x).float(), y, reduction="none")

    return _mean_over_domains(algorithm, loader, step, losses, pulse)


def validation_accuracy(algorithm: Algorithm, loader: EvalLoader, step: int) -> float:
    """The mean over the loader's domains of the accuracy of ``predict``."""
    return _mean_over_domains(algorithm, loader, step, lambda x, y: is_correct(algorithm.predict(x), y))


def _mean_over_domains(
    algorithm: Algorithm,
    loader: EvalLoader,
    step: int,
    measure: Callable[[Tensor, Tensor], Tensor],
    pulse: Pulse = lambda: None,
) -> float:
    """Of a number per image [B]."""
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
    only: Only = None,
) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """(domain, indices, a number per image) of every batch; where processes share the work, of all of theirs."""
    measured = []
    algorithm.eval()
    # Weights that are fetched from other processes stay in memory, and inference mode would mark it as its own.
    without_gradients = torch.no_grad if loader.world.shared else torch.inference_mode
    for batch in loader.batches(step, only=only):
        with without_gradients(), algorithm.precision.autocast():
            measured.append((batch.env, batch.indices, measure(batch.x, batch.y).cpu().numpy()))
        pulse()
    algorithm.train()
    if not loader.world.shared:
        return measured
    # Batch number n was read by process n modulo size, so that this is the order of one process. Those that some read
    # again to keep in step with the others come last.
    rounds = zip_longest(*gather_all(measured))
    return [batch for together in rounds for batch in together if batch is not None][: loader.num_batches(only)]


def predicted_classes(logits: Tensor) -> Tensor:
    """Int64 [B]; a single logit [B, 1] is a binary decision at 0, as upstream has it."""
    return logits.argmax(1) if logits.shape[1] > 1 else logits[:, 0].gt(0).long()


def is_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Float [B] of 0 and 1."""
    return predicted_classes(logits).eq(labels).float()


def _mean(values: np.ndarray) -> float:
    assert not np.isnan(values).any(), "an image of a split was not evaluated"
    return float(values.mean())
