"""Means of the weights of networks of one architecture: running, moving, and over a valley of the validation loss.

Parameters that several layers share are averaged once (WideNet's blocks). Routers and experts are parameters like any
other: along one training run, or between runs from the same initial weights, expert e of one network corresponds to
expert e of the other. Buffers are averaged too where they are floating-point, running statistics of batch norm
included, and taken from the latest network otherwise.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from sfmoe_dg.foundation.host_counters import HostBuffers

State = dict[str, Tensor]


def tensors(network: nn.Module) -> State:
    """Parameters and buffers by name, each shared one under its first name only; not copies."""
    return dict(network.named_parameters()) | dict(network.named_buffers())


@torch.no_grad()
def move_towards(state: Mapping[str, Tensor], target: Mapping[str, Tensor], share: float) -> None:
    """``state`` becomes ``(1 - share)·state + share·target``, in place; integers and booleans become ``target``'s."""
    for name, value in state.items():
        if value.is_floating_point():
            value.lerp_(target[name].to(value.device, value.dtype), share)
        else:
            value.copy_(target[name])


@dataclass
class RunningMean:
    """The mean of the states added so far, on the device of the first; ``state`` is None before that."""

    state: State | None = None
    count: int = 0

    def add(self, state: Mapping[str, Tensor]) -> None:
        self.count += 1
        if self.state is None:
            self.state = {name: value.detach().clone() for name, value in state.items()}
        else:
            move_towards(self.state, state, 1 / self.count)

    def copy(self) -> RunningMean:
        state = None if self.state is None else {name: value.clone() for name, value in self.state.items()}
        return RunningMean(state, self.count)


class MovingAverage(HostBuffers):
    """A copy of a network that follows it, and from update number ``start`` on averages it with all that came since.

    The state before ``start`` counts as the first one of the average, as in Arpit et al.'s code and DomainBed's.
    """

    on_host = ("num_updates", "num_averaged")
    num_updates: Tensor
    num_averaged: Tensor

    def __init__(self, network: nn.Module, start: int) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.start = start
        self.register_buffer("num_updates", torch.tensor(0))
        self.register_buffer("num_averaged", torch.tensor(0))

    def update(self, network: nn.Module) -> None:
        """Take in the network after one more training step."""
        self.num_updates += 1
        if self.num_updates >= self.start:
            self.num_averaged += 1
        move_towards(tensors(self.network), tensors(network), 1 / (1 + int(self.num_averaged)))

    def forward(self, x: Tensor) -> Tensor:
        """What the averaged network predicts, in evaluation mode whatever the mode of its owner."""
        return self.network.eval()(x)


@dataclass
class LossValley:
    """Which segments of training SWAD averages, from the validation losses at their ends.

    The valley starts at the first segment whose loss no one of the next ``n_converge - 1`` undercuts; its threshold is
    ``1 + tolerance_ratio`` times the mean loss of these ``n_converge``. From then on every evaluation looks at the last
    ``n_tolerance`` segments, once the oldest of them is not older than the start: it joins the mean, or, if all of
    their losses are above the threshold, the valley is over. Segments count the same, however many updates they had.

    Source: Cha et al., SWAD: Domain Generalization by Seeking Flat Minima, algorithm 1 (N_s, N_e and r), as in the
    authors' code (khanrc/swad), from which the published numbers come: same segments, same shares. It does more than
    the algorithm as printed:

    * When the valley starts, segments before it join too. Of the last ``n_tolerance`` segments it takes those up to the
      start (up to number ``n_tolerance - n_converge`` if there have been fewer), goes back to the latest of them whose
      loss is above the threshold, and lets join what comes after, but for the earliest of that. The start and later
      segments among these join again in their turn.
    * With ``n_tolerance`` at most ``n_converge``, the start itself is left out unless it is the only one. If it is the
      first segment of all, it joins once for every evaluation at which it is the oldest.
    * Training that ends in the valley adds what follows the oldest of the last ``n_tolerance`` segments, up to where
      only losses above the threshold are left; shortly after the start some of these are in the mean already.
    """

    n_converge: int = 3
    n_tolerance: int = 6
    tolerance_ratio: float = 0.3
    losses: list[float] = field(default_factory=list)
    start: int | None = None
    """The segment at which the valley starts."""
    threshold: float = float("inf")
    over: bool = False
    """Whether the valley has ended; later segments change nothing."""
    _waiting: dict[int, State] = field(default_factory=dict)
    """The latest segments by number: as many as the start or the end is looked for in."""
    _accepted: RunningMean = field(default_factory=RunningMean)

    def add(self, loss: float, segment: State) -> None:
        """A segment's validation loss and mean weights.

        A loss that is not a number counts as infinite; in the authors' code it would start a valley without end.
        """
        if self.over:
            return
        self._waiting[len(self.losses)] = segment
        self.losses.append(loss if loss == loss else float("inf"))
        if self.start is None:
            self._look_for_start()
        elif self._oldest >= self.start:
            self._decide(self.start)
        outdated = len(self.losses) - max(self.n_converge, self.n_tolerance)
        self._waiting = {} if self.over else {i: state for i, state in self._waiting.items() if i >= outdated}

    @property
    def _oldest(self) -> int:
        """The first of the last ``n_tolerance`` segments."""
        return max(0, len(self.losses) - self.n_tolerance)

    def _look_for_start(self) -> None:
        first = len(self.losses) - self.n_converge
        if first < 0 or self.losses[first] > min(self.losses[first:]):
            return
        self.start = first
        # NumPy's mean, as the authors': a sum rounded otherwise could decide a tie otherwise.
        self.threshold = float(np.mean(self.losses[first:])) * (1.0 + self.tolerance_ratio)
        for i in self._known_at_start(first):
            self._accepted.add(self._waiting[i])

    def _known_at_start(self, start: int) -> range:
        """The segments that belong to the valley when it has just started."""
        surplus = self.n_tolerance - self.n_converge
        if surplus <= 0:
            return range(start + 1, start + 1 - surplus)
        end = min(self._oldest + surplus + 1, len(self.losses))
        high = [i for i in range(self._oldest, end) if self.losses[i] > self.threshold]
        return range(high[-1] + 2 if high else self._oldest + 1, end)

    def _decide(self, start: int) -> None:
        """Whether the oldest segment that waits belongs to the valley, all of its successors being known."""
        self.over = min(self.losses[self._oldest :]) > self.threshold
        if not self.over:
            self._accepted.add(self._waiting[self._oldest])
        elif self._accepted.state is None:
            self._accepted.add(self._waiting[start])

    def average(self) -> State | None:
        """The mean if training ended now; before the valley has started, the latest segment; None before that."""
        if self.start is None:
            return self._waiting.get(len(self.losses) - 1)
        mean = self._accepted.copy()
        for i in () if self.over else range(self._oldest + 1, len(self.losses)):
            if min(self.losses[i:]) > self.threshold:
                break
            mean.add(self._waiting[i])
        return self._waiting[self.start] if mean.state is None else mean.state
