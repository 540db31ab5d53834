"""Time the stages of a training run with hooks around functions that the training loop calls."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any


class Stopwatch:
    """Seconds by stage. The time of a stage inside another one counts for the inner one only."""

    def __init__(self) -> None:
        self.seconds = defaultdict[str, float](float)
        self._open: list[str] = []
        self._since = time.perf_counter()

    def _pass(self) -> None:
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now

    def begin(self, stage: str) -> None:
        self._pass()
        self._open.append(stage)

    def end(self) -> None:
        self._pass()
        self._open.pop()

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.begin(stage)
            try:
                return function(*args, **kwargs)
            finally:
                self.end()

        return call

    def waiting(self, stage: str, batches: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        """``batches``; the time that a caller waits for the next one counts as ``stage``."""

        def read(*args: Any, **kwargs: Any) -> Iterator[Any]:
            following = partial(next, iter(batches(*args, **kwargs)), None)
            while (batch := self.timed(stage, following)()) is not None:
                yield batch

        return read


def put_hooks(watch: Stopwatch) -> None:
    """Let ``watch`` time every stage of runs in this process, for ERM and algorithms that share its update."""
    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

    from sfmoe_dg.algorithms.erm import ERM
    from sfmoe_dg.data.batches.loaders import EvalLoader, TrainLoader
    from sfmoe_dg.training import loop as train

    stages = {"prepare": "data and model", "evaluate": "evaluation"}
    stages |= dict.fromkeys(("save_state", "save_trained", "append_record", "write_progress"), "saving")
    for name, stage in stages.items():
        setattr(train, name, watch.timed(stage, getattr(train, name)))
    # Replace methods of classes, so that all instances use them.
    for owner, name, stage in ((ERM, "update", "forward"), (torch.Tensor, "backward", "backward")):
        setattr(owner, name, watch.timed(stage, getattr(owner, name)))
    for loader, stage in ((TrainLoader, "waiting for training data"), (EvalLoader, "waiting for evaluation data")):
        loader.batches = watch.waiting(stage, loader.batches)  # type: ignore[method-assign]
    register_optimizer_step_pre_hook(lambda *_: watch.begin("optimizer"))
    register_optimizer_step_post_hook(lambda *_: watch.end())
