"""Few-shot transfer: accuracy on an unseen domain after a few labelled examples of it.

There are two methods. A ridge head in closed form on frozen features (V-MoE, arXiv 2106.05974: linear few-shot
evaluation). Prompt tokens that are learned while everything else is frozen (Uni-Perceiver-MoE, arXiv 2206.04674: prompt
tuning with 1 % of the data; the authors have prompts at every layer and tune norms too, here the prompts enter before
the first block only).

Legend: N examples, F features, B images, S tokens of one image, L prompt tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from sfmoe_dg.algorithms.base import Algorithm
from sfmoe_dg.analysis.subject.predicting import Batches, evaluating, features_and_logits, vision_transformer
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.seeds import generator
from sfmoe_dg.training.evaluate import is_correct

BIAS = 100.0
"""The constant feature of the ridge head. It is large, so the penalty hardly shrinks the intercept (V-MoE's code)."""
L2 = 2.0**10
SHOTS: tuple[int | float, ...] = (1, 5, 10, 0.01)


def draw_examples(
    labels: np.ndarray, amount: int | float, seed: int, draw: int, whole: int | None = None
) -> np.ndarray:
    """Draw the examples to learn from; returns their positions, int64, ascending.

    Args:
        labels: int64 [N], the classes of all images that may be drawn.
        amount: a whole number is the number of examples per class (all of a class that has fewer). A number below 1 is
            a share of ``whole``, at least one image, regardless of class.
        draw: number of the draw. The examples of a larger amount contain those of a smaller one in the same draw.
        whole: the number of images that a share refers to, such as the size of the domain; default N.

    Raises:
        UserError: if ``amount`` is neither, or if the share is more images than may be drawn.
    """
    random = generator(seed, "few_shot", draw)
    order = random.permutation(len(labels))
    if isinstance(amount, float) and 0 < amount < 1:
        count = max(1, round(amount * (whole or len(labels))))
        if count > len(order):
            raise UserError(f"{amount:.3g} of {whole} images are {count}, but only {len(order)} may be drawn")
        return np.sort(order[:count])
    if amount < 1 or amount != int(amount):
        raise UserError(f"{amount} examples: it must be a whole number per class of at least 1, or a share below 1")
    chosen = [order[labels[order] == label][: int(amount)] for label in np.unique(labels)]
    return np.sort(np.concatenate(chosen))


class RidgeHead:
    """Least squares of one-against-all targets ±1 with an L2 penalty, in closed form.

    Features are standardised by the examples' mean and standard deviation (V-MoE's code). The authors choose the
    penalty among many by the test accuracy over several data sets; here it is fixed beforehand.

    Args:
        features: float [N, F].
        labels: int64 [N].
        l2: the penalty λ of ‖XW - Y‖² + λ‖W‖².
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray, num_classes: int, l2: float = L2) -> None:
        self.mean = features.mean(axis=0)
        self.std = features.std(axis=0) + 1e-5
        x_NF = self._standardized(features)
        y_NC = 2.0 * np.eye(num_classes)[labels] - 1.0
        count, width = x_NF.shape
        # Both forms are equal; the one with the smaller system is solved.
        if count < width:
            self.weights_FC = x_NF.T @ np.linalg.solve(x_NF @ x_NF.T + l2 * np.eye(count), y_NC)
        else:
            self.weights_FC = np.linalg.solve(x_NF.T @ x_NF + l2 * np.eye(width), x_NF.T @ y_NC)

    def _standardized(self, features: np.ndarray) -> np.ndarray:
        scaled = (features - self.mean) / self.std
        return np.pad(scaled, ((0, 0), (0, 1)), constant_values=BIAS)

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Scores, float [N, classes]; the class with the largest is predicted."""
        return self._standardized(features) @ self.weights_FC


def few_shot_ridge(
    algorithm: Algorithm,
    pool: Batches,
    query: Batches,
    *,
    shots: Sequence[int | float] = SHOTS,
    draws: int = 5,
    seed: int = 0,
    whole: int | None = None,
    l2: float = L2,
) -> pd.DataFrame:
    """Frozen features and a ridge head learned from a few examples of the domain.

    Args:
        pool: images of the domain to draw examples from, such as a test domain's ``out`` split.
        query: other images of the domain to measure accuracy on, such as its ``in`` split; the same for all draws.
        shots, draws, seed, whole: see :func:`draw_examples`.

    Returns:
        columns ``method`` ('ridge', or 'none' for the run's own classifier without examples), ``shots``, ``examples``
        (mean number used), ``accuracy`` (mean over draws), ``stderr`` (over draws; NaN for one), ``draws``.
    """
    pool_features, _, pool_labels = features_and_logits(algorithm, pool)
    features, logits, labels = features_and_logits(algorithm, query)
    own = is_correct(torch.from_numpy(logits), torch.from_numpy(labels)).numpy().mean()
    rows = [_row("none", 0, [0], [float(own)])]
    num_classes = algorithm.num_classes

    def accuracy(chosen: np.ndarray, draw: int) -> float:
        head = RidgeHead(pool_features[chosen], pool_labels[chosen], num_classes, l2)
        return float((head.scores(features).argmax(axis=1) == labels).mean())

    for amount in shots:
        examples = [draw_examples(pool_labels, amount, seed, draw, whole) for draw in range(draws)]
        rows.append(_measured("ridge", amount, examples, accuracy))
    return pd.DataFrame(rows)


def few_shot_prompts(
    algorithm: Algorithm,
    pool: Batches,
    query: Batches,
    *,
    shots: Sequence[int | float] = (0.01,),
    draws: int = 5,
    seed: int = 0,
    whole: int | None = None,
    num_prompts: int = 4,
    steps: int = 100,
    lr: float = 1e-2,
) -> pd.DataFrame:
    """Prompt tokens learned from a few examples; the network and its classifier stay frozen.

    Args:
        pool, query, shots, draws, seed, whole: as in :func:`few_shot_ridge`; pool and query are held in memory.
        num_prompts, steps, lr: see :func:`tune_prompts`.

    Returns:
        as :func:`few_shot_ridge`, ``method`` 'prompts'; and ``parameters``, the number of learned values.

    Raises:
        UserError: if the run predicts with a network that has no tokens.
    """
    kept, questions = list(pool), list(query)
    x, y = torch.cat([x for x, _ in kept]), torch.cat([y for _, y in kept])
    labels = y.cpu().numpy().astype(np.int64)
    width = vision_transformer(algorithm, x[:1]).embed_dim
    rows = [_row("none", 0, [0], [accuracy_of(algorithm, questions)])]

    def accuracy(chosen: np.ndarray, draw: int) -> float:
        picked = torch.from_numpy(chosen).to(x.device)
        key = int(generator(seed, "prompts", draw).integers(2**31))
        prompts = tune_prompts(algorithm, x[picked], y[picked], num_prompts=num_prompts, steps=steps, lr=lr, seed=key)
        with prompted(algorithm, x[:1], prompts):
            return accuracy_of(algorithm, questions)

    for amount in shots:
        examples = [draw_examples(labels, amount, seed, draw, whole) for draw in range(draws)]
        rows.append(_measured("prompts", amount, examples, accuracy))
    parameters = [0] + [num_prompts * width] * len(shots)
    return pd.DataFrame(rows).assign(parameters=parameters)


def tune_prompts(
    algorithm: Algorithm,
    x: Tensor,
    y: Tensor,
    *,
    num_prompts: int = 4,
    steps: int = 100,
    lr: float = 1e-2,
    batch_size: int = 64,
    seed: int = 0,
) -> Tensor:
    """Learn prompt tokens, float [L, D], by Adam on the cross-entropy of the examples ``x`` [N, C, H, W], ``y`` [N].

    They start from N(0, 0.02²). Everything else is in evaluation mode and frozen. Of more than ``batch_size`` examples,
    that many are drawn without replacement at every step.

    Raises:
        UserError: if the algorithm predicts with a network that has no tokens.
    """
    width = vision_transformer(algorithm, x[:1]).embed_dim
    random = torch.Generator().manual_seed(seed)
    start = 0.02 * torch.randn(num_prompts, width, generator=random)
    prompts = start.to(device=x.device, dtype=x.dtype).requires_grad_(True)
    optimizer = torch.optim.Adam([prompts], lr=lr)
    trainable = [p for p in algorithm.parameters() if p.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        with evaluating(algorithm), prompted(algorithm, x[:1], prompts):
            for _ in range(steps):
                picked = torch.randperm(len(x), generator=random)[:batch_size].to(x.device)
                optimizer.zero_grad()
                F.cross_entropy(algorithm.predict(x[picked]), y[picked]).backward()
                optimizer.step()
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
    return prompts.detach()


@contextmanager
def prompted(algorithm: Algorithm, x: Tensor, prompts_LD: Tensor) -> Iterator[None]:
    """Inside the ``with`` block, prompt tokens are appended to every image's tokens.

    They are added after the patches, before the first transformer block, and removed before the last norm, so that
    pooling sees the image's own tokens only. ``x`` is one image, used to find the network.

    Raises:
        UserError: if the algorithm predicts with a network that has no tokens.
    """
    network = vision_transformer(algorithm, x)
    count = len(prompts_LD)

    def join(module: torch.nn.Module, args: tuple[Tensor], tokens_BSD: Tensor) -> Tensor:
        return torch.cat([tokens_BSD, prompts_LD.to(tokens_BSD.dtype).expand(len(tokens_BSD), -1, -1)], 1)

    def leave(module: torch.nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        return (args[0][:, : args[0].shape[1] - count],)

    hooks = [network.norm_pre.register_forward_hook(join), network.norm.register_forward_pre_hook(leave)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def accuracy_of(algorithm: Algorithm, batches: Batches) -> float:
    """The share of images whose class is predicted."""
    correct = []
    with evaluating(algorithm), torch.no_grad(), algorithm.precision.autocast():
        for x, y in batches:
            correct.append(is_correct(algorithm.predict(x), y).cpu().numpy())
    if not correct:
        raise UserError("there is no image to measure accuracy on")
    return float(np.concatenate(correct).mean())


def _measured(
    method: str, amount: int | float, examples: Sequence[np.ndarray], accuracy: Callable[[np.ndarray, int], float]
) -> dict[str, object]:
    accuracies = [accuracy(chosen, draw) for draw, chosen in enumerate(examples)]
    return _row(method, amount, [len(chosen) for chosen in examples], accuracies)


def _row(method: str, amount: int | float, examples: Sequence[int], accuracies: Sequence[float]) -> dict[str, object]:
    count = len(accuracies)
    return {
        "method": method,
        "shots": amount,
        "examples": float(np.mean(examples)),
        "accuracy": float(np.mean(accuracies)),
        "stderr": float(np.std(accuracies, ddof=1) / np.sqrt(count)) if count > 1 else np.nan,
        "draws": count,
    }
