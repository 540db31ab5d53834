"""Efficiency: time and memory of an update, multiply-accumulates and parameters, beside the accuracy of the method.

The device is synchronised before the clock is read. Peak memory means, on CUDA, the allocator's peak during an update,
weights and optimiser included, without what else is on the device; on the CPU, the peak of torch's allocations above
the level before the update, from the profiler's record of allocations. The two are not comparable.

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
from sfmoe_dg.algorithms.registry import ALGORITHMS, default_hparams
from sfmoe_dg.algorithms.shared.optimisation import optimizers
from sfmoe_dg.algorithms.shared.precision import Precision
from sfmoe_dg.analysis.subject.predicting import evaluating
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.seeds import seed_everything
from sfmoe_dg.models.macs import count_macs


@dataclass(frozen=True)
class UpdateCost:
    """The cost of one algorithm on one backbone.

    Attributes:
        seconds, seconds_low, seconds_high: median and quartiles of the time of an update.
        steps: updates that were timed.
        peak_bytes: peak memory of an update, see the top of this file; NaN where the device does not report it.
        macs: multiply-accumulates of predicting one image.
        parameters: number of trainable parameters, of all networks that the algorithm trains.
    """

    seconds: float
    seconds_low: float
    seconds_high: float
    steps: int
    peak_bytes: float
    macs: float
    parameters: int


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def step_seconds(algorithm: Algorithm, minibatches: Minibatches, steps: int, warmup: int) -> np.ndarray:
    """Seconds of each of ``steps`` updates on the same minibatches, float64 [steps], after ``warmup`` untimed ones."""
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
    """Peak memory of one update in bytes (see the top of this file); NaN on devices that do not report it."""
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
    """Bytes on a device between updates: an algorithm's weights, buffers, gradients and optimiser states."""
    kept = [*algorithm.parameters(), *algorithm.buffers()]
    kept += [p.grad for p in algorithm.parameters() if p.grad is not None]
    states = (state for m in algorithm.modules() for o in optimizers(m) for state in o.state.values())
    kept += [value for state in states for value in state.values() if isinstance(value, Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in kept if tensor.device == device)


def peak_of_changes(changes: Sequence[int]) -> int:
    """The highest level above the start, when memory changes by these numbers of bytes, one after the other."""
    return int(max(0, np.cumsum(changes, dtype=np.int64).max(initial=0)))


def _update(algorithm: Algorithm, minibatches: Minibatches) -> None:
    with algorithm.precision.autocast():
        algorithm.update(minibatches)


class _Prediction(nn.Module):
    """An algorithm's ``predict`` as a module, for ``count_macs``."""

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
    """Measure the cost of an algorithm. This trains it by ``warmup + steps + 1`` updates.

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
    """Noise with random labels, the same at every call. The cost of an update does not depend on the images."""
    random = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(batch_size, *input_shape, generator=random).to(device),
            torch.randint(num_classes, (batch_size,), generator=random).to(device),
        )
        for _ in range(num_domains)
    ]


def efficiency_table(
    methods: Iterable[tuple[str, str, Mapping[str, Any]]],
    minibatches: Minibatches,
    num_classes: int,
    *,
    precision: str = "fp32",
    steps: int = 20,
    warmup: int = 3,
) -> pd.DataFrame:
    """The cost of every method on the same minibatches.

    Networks start from random weights, which cost the same as trained ones. A method that cannot be built has a row
    that says why under ``refused``, and NaN elsewhere.

    Args:
        methods: algorithm, backbone and hyper-parameters of each; :func:`default_methods` makes them.
        minibatches: one (x, y) per training domain, on the device to measure; :func:`random_minibatches` makes them.
        num_classes: of the data set.

    Returns:
        columns ``algorithm``, ``backbone``, the fields of :class:`UpdateCost`, ``images`` (of one update), ``refused``.
    """
    x = minibatches[0][0]
    rows: list[dict[str, Any]] = []
    for name, backbone, hparams in methods:
        row: dict[str, Any] = {"algorithm": name, "backbone": backbone, "images": sum(len(x) for x, _ in minibatches)}
        values = {**hparams, "backbone": backbone, "pretrained": False, "batch_size": len(x)}
        try:
            algorithm = _built(name, tuple(x.shape[1:]), num_classes, len(minibatches), values)
            algorithm.precision = Precision(precision, x.device.type)
            cost = asdict(measure_cost(algorithm.to(x.device), minibatches, steps=steps, warmup=warmup))
            rows.append(row | cost | {"refused": ""})
        except UserError as error:
            rows.append(row | {"refused": str(error)})
    return pd.DataFrame(rows)


def default_methods(pairs: Iterable[tuple[str, str]], dataset: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Pairs of algorithm and backbone with the algorithms' default hyper-parameters for a data set."""
    return [(name, backbone, default_hparams(name, dataset)) for name, backbone in pairs]


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
    """Which points are on the Pareto front, bool [N].

    A point is not on the front if another one is no dearer and no less accurate, and better in at least one of the
    two. A point with NaN is never on the front.
    """
    costs, accuracies = np.asarray(costs, dtype=np.float64), np.asarray(accuracies, dtype=np.float64)
    as_good = (costs[None] <= costs[:, None]) & (accuracies[None] >= accuracies[:, None])
    better = (costs[None] < costs[:, None]) | (accuracies[None] > accuracies[:, None])
    known = ~(np.isnan(costs) | np.isnan(accuracies))
    return known & ~(as_good & better).any(axis=1)


def accuracy_against_cost(accuracies: pd.DataFrame, costs: pd.DataFrame, cost: str = "seconds") -> pd.DataFrame:
    """Join accuracies and costs of the same methods, the cheapest first, and mark the Pareto front.

    Args:
        accuracies: columns ``algorithm``, ``backbone``, ``accuracy``, and others that are kept.
        costs: what :func:`efficiency_table` returns.
        cost: the column of ``costs`` that the front is about.

    Returns:
        the methods that have an accuracy, with the columns of both tables and ``on_front``; NaN where the cost is
        unknown.

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
