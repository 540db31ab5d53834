"""Averages of weights: a running mean, a moving average, and SWAD's mean over a valley of the validation loss.

Parameters that several layers share (WideNet's blocks) are averaged once. Routers and experts are averaged like other
parameters: along one training run, or between runs with the same initial weights, expert e of one network corresponds
to expert e of the other. Floating-point buffers, such as the running statistics of batch norm, are averaged too; other
buffers are copied from the latest network.
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
    """The network's own parameters and buffers by name (no copies); a shared one appears under its first name only."""
    return dict(network.named_parameters()) | dict(network.named_buffers())


@torch.no_grad()
def move_towards(state: Mapping[str, Tensor], target: Mapping[str, Tensor], share: float) -> None:
    """Set ``state`` to ``(1 - share)·state + share·target`` in place; integers and booleans are copied from ``target``.

    Examples:
        >>> state = {"weight": torch.zeros(2)}
        >>> move_towards(state, {"weight": torch.ones(2)}, 0.25)
        >>> state["weight"]
        tensor([0.2500, 0.2500])
    """
    for name, value in state.items():
        if value.is_floating_point():
            value.lerp_(target[name].to(value.device, value.dtype), share)
        else:
            value.copy_(target[name])


@dataclass
class RunningMean:
    """The mean of the states added so far, on the device of the first one; ``state`` is None before that.

    Examples:
        >>> mean = RunningMean()
        >>> mean.add({"weight": torch.tensor([1.0])})
        >>> mean.add({"weight": torch.tensor([3.0])})
        >>> mean.state
        {'weight': tensor([2.])}
    """

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
    """The mean of a network's weights from update number ``start`` on; before that a copy of the network.

    The weights just before ``start`` count as the first of the mean, as in the code of Arpit et al. and in DomainBed.
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
        """Add the network's weights after one more training step."""
        self.num_updates += 1
        if self.num_updates >= self.start:
            self.num_averaged += 1
        move_towards(tensors(self.network), tensors(network), 1 / (1 + int(self.num_averaged)))

    def forward(self, x: Tensor) -> Tensor:
        """The prediction of the averaged network, always in evaluation mode."""
        return self.network.eval()(x)


@dataclass
class LossValley:
    """Decides which segments of training SWAD averages, from the validation losses at the end of each segment.

    The valley starts at the first segment whose loss is not above any of the next ``n_converge - 1`` losses. Its
    threshold is ``1 + tolerance_ratio`` times the mean of these ``n_converge`` losses. Every later evaluation looks at
    the last ``n_tolerance`` segments, provided that the oldest of them is not older than the start. If all their losses
    are above the threshold, the valley ends; otherwise the oldest segment joins the mean. All segments have the same
    weight, however many updates they contain.

    Source: Cha et al., SWAD: Domain Generalization by Seeking Flat Minima, algorithm 1 (N_s, N_e and r), as in the
    authors' code (khanrc/swad), from which the published numbers come. That code differs from the printed algorithm:

    * When the valley starts, earlier segments join too. Of the last ``n_tolerance`` segments it takes those up to the
      start (up to number ``n_tolerance - n_converge`` if there have been fewer), finds the latest of them whose loss is
      above the threshold, and adds those after it (all of them if none is above) except the first. The start and later
      segments among these are added again when their turn comes.
    * With ``n_tolerance`` at most ``n_converge``, the start itself is left out unless it is the only segment. If it is
      the first segment of all, it is added once for every evaluation at which it is the oldest.
    * If training ends within the valley, the segments after the oldest of the last ``n_tolerance`` are added, up to the
      point from which all losses are above the threshold. Shortly after the start some of these are in the mean
      already.
    """

    n_converge: int = 3
    n_tolerance: int = 6
    tolerance_ratio: float = 0.3
    losses: list[float] = field(default_factory=list)
    start: int | None = None
    """The segment at which the valley starts."""
    threshold: float = float("inf")
    over: bool = False
    """Whether the valley has ended; later segments are ignored."""
    _waiting: dict[int, State] = field(default_factory=dict)
    """The latest segments by number, as many as the search for the start or the end may still need."""
    _accepted: RunningMean = field(default_factory=RunningMean)

    def add(self, loss: float, segment: State) -> None:
        """Add a segment: the validation loss at its end, and its mean weights.

        NaN counts as an infinite loss; in the authors' code it would start a valley that never ends.
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
        """The number of the first of the last ``n_tolerance`` segments."""
        return max(0, len(self.losses) - self.n_tolerance)

    def _look_for_start(self) -> None:
        first = len(self.losses) - self.n_converge
        if first < 0 or self.losses[first] > min(self.losses[first:]):
            return
        self.start = first
        # NumPy's mean, as in the authors' code: other rounding could decide a tie differently.
        self.threshold = float(np.mean(self.losses[first:])) * (1.0 + self.tolerance_ratio)
        for i in self._known_at_start(first):
            self._accepted.add(self._waiting[i])

    def _known_at_start(self, start: int) -> range:
        """The segments that join the mean when the valley has just started."""
        surplus = self.n_tolerance - self.n_converge
        if surplus <= 0:
            return range(start + 1, start + 1 - surplus)
        end = min(self._oldest + surplus + 1, len(self.losses))
        high = [i for i in range(self._oldest, end) if self.losses[i] > self.threshold]
        return range(high[-1] + 2 if high else self._oldest + 1, end)

    def _decide(self, start: int) -> None:
        """Add the oldest waiting segment to the mean, or end the valley."""
        self.over = min(self.losses[self._oldest :]) > self.threshold
        if not self.over:
            self._accepted.add(self._waiting[self._oldest])
        elif self._accepted.state is None:
            self._accepted.add(self._waiting[start])

    def average(self) -> State | None:
        """The mean weights if training ended now.

        Before the valley starts these are the latest segment's; before the first segment, None.
        """
        if self.start is None:
            return self._waiting.get(len(self.losses) - 1)
        mean = self._accepted.copy()
        for i in () if self.over else range(self._oldest + 1, len(self.losses)):
            if min(self.losses[i:]) > self.threshold:
                break
            mean.add(self._waiting[i])
        return self._waiting[self.start] if mean.state is None else mean.state
