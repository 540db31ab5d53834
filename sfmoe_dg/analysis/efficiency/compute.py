"""Efficiency: time and memory of an update, multiply-accumulates and parameters; and what accuracy they buy.

The clock is read only when the device has finished. Peak memory is what an update needs at its worst: on CUDA the
allocator's peak, weights and optimiser included, without what else lay on the device before; on the CPU the peak of
torch's allocations above what was there before the update, from the profiler's record of every allocation. The two are
not comparable.

Legend: B images of a minibatch, C, H, W channels, height and width.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from sfmoe_dg.algorithms.base import Algorithm, Minibatches
from sfmoe_dg.algorithms.registry import ALGORITHMS, hparam_table
from sfmoe_dg.algorithms.shared.optimisation import optimizers
from sfmoe_dg.algorithms.shared.precision import Precision
from sfmoe_dg.analysis.subject.predicting import evaluating
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.seeds import seed_everything
from sfmoe_dg.models.macs import count_macs
from sfmoe_dg.runs.hparams import check_overrides, default_values


@dataclass(frozen=True)
class UpdateCost:
    """What one algorithm on one backbone costs.

    Attributes:
        seconds, seconds_low, seconds_high: median and quartiles of the time of an update.
        steps: updates that were timed.
        peak_bytes: memory of an update, see the file's text; NaN where the device does not tell.
        macs: multiply-accumulates of predicting one image.
        parameters: trainable ones of the algorithm, all networks that it trains included.
    """

    seconds: float
    seconds_low: float
    seconds_high: float
    steps: int
    peak_bytes: float
    macs: float
    parameters: int


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def step_seconds(algorithm: Algorithm, minibatches: Minibatches, steps: int, warmup: int) -> np.ndarray:
    """The time of every one of ``steps`` updates on the same minibatches, float64 [steps], after ``warmup`` others."""
    device = minibatches[0][0].device
    seconds = []
    for _ in range(warmup + steps):
        synchronize(device)
        started = time.perf_counter()
        _update(algorithm, minibatches)
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return np.array(seconds[warmup:])


def peak_memory(algorithm: Algorithm, minibatches: Minibatches) -> float:
    """Bytes that one update needs at its worst; NaN on devices that keep no account."""
    device = minibatches[0][0].device
    if device.type == "cuda":
        others = torch.cuda.memory_allocated(device) - resident_bytes(algorithm, device)
        torch.cuda.reset_peak_memory_stats(device)
        _update(algorithm, minibatches)
        synchronize(device)
        return float(torch.cuda.max_memory_allocated(device) - others)
    if device.type != "cpu":
        return float("nan")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        _update(algorithm, minibatches)
    results: Any = record.profiler
    events = [e for e in results.kineto_results.events() if e.name() == "[memory]"]
    changes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    return float(peak_of_changes(changes))


def resident_bytes(algorithm: nn.Module, device: torch.device) -> int:
    """What an algorithm keeps on a device between updates: weights, buffers, gradients and the optimisers' states."""
    kept = [*algorithm.parameters(), *algorithm.buffers()]
    kept += [p.grad for p in algorithm.parameters() if p.grad is not None]
    states = (state for m in algorithm.modules() for o in optimizers(m) for state in o.state.values())
    kept += [value for state in states for value in state.values() if isinstance(value, Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in kept if tensor.device == device)


def peak_of_changes(changes: Sequence[int]) -> int:
    """The highest level above the start when memory grows and shrinks by these bytes, one after the other."""
    return int(max(0, np.cumsum(changes, dtype=np.int64).max(initial=0)))


def _update(algorithm: Algorithm, minibatches: Minibatches) -> None:
    with algorithm.precision.autocast():
        algorithm.update(minibatches)


class _Prediction(nn.Module):
    """An algorithm's prediction as a module that can be counted."""

    def __init__(self, algorithm: Algorithm) -> None:
        super().__init__()
        self.algorithm = algorithm

    def forward(self, x: Tensor) -> Tensor:
        return self.algorithm.predict(x)


def prediction_macs(algorithm: Algorithm, x: Tensor) -> float:
    """Multiply-accumulates of predicting one image, from predicting the batch ``x``."""
    with evaluating(algorithm):
        return count_macs(_Prediction(algorithm), x).total / len(x)


def measure_cost(algorithm: Algorithm, minibatches: Minibatches, *, steps: int = 20, warmup: int = 3) -> UpdateCost:
    """Everything :class:`UpdateCost` holds. The algorithm is trained by ``warmup + steps + 1`` updates.

    Raises:
        UserError: if ``steps`` is below 1 or ``warmup`` below 0.
    """
    if steps < 1 or warmup < 0:
        raise UserError(f"{steps} timed and {warmup} untimed steps; at least 1 and 0 are needed")
    algorithm.train()
    seconds = step_seconds(algorithm, minibatches, steps, warmup)
    low, median, high = np.quantile(seconds, (0.25, 0.5, 0.75)).tolist()
    return UpdateCost(
        seconds=median,
        seconds_low=low,
        seconds_high=high,
        steps=steps,
        peak_bytes=peak_memory(algorithm, minibatches),
        macs=prediction_macs(algorithm, minibatches[0][0]),
        parameters=sum(p.numel() for p in algorithm.parameters() if p.requires_grad),
    )


def random_minibatches(
    input_shape: tuple[int, ...],
    num_classes: int,
    num_domains: int,
    batch_size: int,
    device: torch.device | str = "cpu",
) -> list[tuple[Tensor, Tensor]]:
    """Noise with random labels, the same at every call: what an update costs does not depend on the pictures."""
    random = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(batch_size, *input_shape, generator=random).to(device),
            torch.randint(num_classes, (batch_size,), generator=random).to(device),
        )
        for _ in range(num_domains)
    ]


def efficiency_table(
    pairs: Iterable[tuple[str, str]],
    *,
    dataset: str,
    input_shape: tuple[int, int, int],
    num_classes: int,
    num_domains: int = 3,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    precision: str = "fp32",
    steps: int = 20,
    warmup: int = 3,
    hparams: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """The cost of every (algorithm, backbone) at one batch, with the algorithm's default hyper-parameters.

    Networks start from random weights, which cost the same as trained ones. A pair that cannot be built has a row
    that says why under ``refused``, and NaN elsewhere.

    Args:
        pairs: names of the registry and of backbones.
        dataset: whose default hyper-parameters are taken.
        batch_size: images per training domain.
        hparams: changes to the defaults, for all pairs.

    Returns:
        columns ``algorithm``, ``backbone``, the fields of :class:`UpdateCost`, ``images`` (of one update), ``refused``.
    """
    minibatches = random_minibatches(input_shape, num_classes, num_domains, batch_size, device)
    rows: list[dict[str, Any]] = []
    for name, backbone in pairs:
        row: dict[str, Any] = {"algorithm": name, "backbone": backbone, "images": batch_size * num_domains}
        changes = {"backbone": backbone, "pretrained": False, "batch_size": batch_size, **(hparams or {})}
        try:
            table = hparam_table(name, dataset)
            check_overrides(table, {key: value for key, value in changes.items() if key in table}, "efficiency_table")
            algorithm = _built(name, input_shape, num_classes, num_domains, default_values(table) | changes)
            algorithm.precision = Precision(precision, torch.device(device).type)
            cost = asdict(measure_cost(algorithm.to(device), minibatches, steps=steps, warmup=warmup))
            rows.append(row | cost | {"refused": ""})
        except UserError as error:
            rows.append(row | {"refused": str(error)})
    return pd.DataFrame(rows)


def _built(
    name: str, input_shape: tuple[int, ...], num_classes: int, num_domains: int, hparams: dict[str, Any]
) -> Algorithm:
    algorithm_class = ALGORITHMS.load(name)
    algorithm_class.check_hparams(hparams, "efficiency_table")
    if num_domains < algorithm_class.min_domains:
        raise UserError(f"{name} needs at least {algorithm_class.min_domains} training domains")
    seed_everything(0)
    return algorithm_class(input_shape, num_classes, num_domains, hparams)


def pareto_front(costs: np.ndarray, accuracies: np.ndarray) -> np.ndarray:
    """Which points no other one beats: bool [N].

    A point is beaten by one that is as cheap and as accurate, and better in one of the two. Points with NaN never
    belong to the front.
    """
    costs, accuracies = np.asarray(costs, dtype=np.float64), np.asarray(accuracies, dtype=np.float64)
    as_good = (costs[None] <= costs[:, None]) & (accuracies[None] >= accuracies[:, None])
    better = (costs[None] < costs[:, None]) | (accuracies[None] > accuracies[:, None])
    known = ~(np.isnan(costs) | np.isnan(accuracies))
    return known & ~(as_good & better).any(axis=1)


def accuracy_against_cost(accuracies: pd.DataFrame, costs: pd.DataFrame, cost: str = "seconds") -> pd.DataFrame:
    """Accuracies and costs of the same methods side by side, cheapest first, the Pareto front marked.

    Args:
        accuracies: columns ``algorithm``, ``backbone``, ``accuracy``, and others that are kept.
        costs: what :func:`efficiency_table` returns.
        cost: the column of ``costs`` to pay with.

    Returns:
        the methods that have an accuracy, with the columns of both and ``on_front``. One without a cost keeps its row.

    Raises:
        UserError: if a column is missing, or a method occurs twice.
    """
    keys = ["algorithm", "backbone"]
    for table, wanted, what in ((accuracies, [*keys, "accuracy"], "accuracies"), (costs, [*keys, cost], "costs")):
        missing = [name for name in wanted if name not in table]
        if missing:
            raise UserError(
                f"the table of {what} lacks the column {missing[0]!r}; it has {', '.join(map(str, table.columns))}"
            )
        if table.duplicated(keys).any():
            algorithm, backbone = table[table.duplicated(keys)][keys].iloc[0]
            raise UserError(f"the table of {what} has {algorithm} on {backbone} twice")
    merged = accuracies.merge(costs, on=keys, how="left", suffixes=("", "_of_cost"))
    merged["on_front"] = pareto_front(merged[cost].to_numpy(), merged["accuracy"].to_numpy())
    return merged.sort_values(cost, ignore_index=True)
