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

import torch
from torch import Tensor, nn

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


class MovingAverage(nn.Module):
    """A copy of a network that follows it, and from update number ``start`` on averages it with all that came since.

    The state before ``start`` counts as the first one of the average, as in Arpit et al.'s code and DomainBed's.
    """

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
    """Which stretch of training SWAD averages, from the validation losses at the ends of its segments.

    The valley starts at the first segment whose loss no one of the next ``n_converge - 1`` undercuts. A segment belongs
    to it as long as the lowest loss among it and its next ``n_tolerance - 1`` is at most ``1 + tolerance_ratio`` times
    the mean loss of the first ``n_converge``; the first that does not ends it.

    Source: Cha et al., SWAD: Domain Generalization by Seeking Flat Minima, algorithm 1 (N_s, N_e and r).
    """

    n_converge: int = 3
    n_tolerance: int = 6
    tolerance_ratio: float = 0.3
    losses: list[float] = field(default_factory=list)
    start: int | None = None
    """The first segment of the valley."""
    end: int = 0
    """The first segment that is not known to belong to it."""
    threshold: float = float("inf")
    over: bool = False
    """Whether the valley has ended; later segments change nothing."""
    _waiting: dict[int, State] = field(default_factory=dict)
    _accepted: RunningMean = field(default_factory=RunningMean)

    def add(self, loss: float, segment: State) -> None:
        """A segment's validation loss and mean weights; a loss that is not a number counts as infinite."""
        if self.over:
            return
        self._waiting[len(self.losses)] = segment
        self.losses.append(loss if loss == loss else float("inf"))
        if self.start is None:
            self._look_for_start()
        while self.start is not None and not self.over and self.end + self.n_tolerance <= len(self.losses):
            self._decide()

    def _look_for_start(self) -> None:
        first = len(self.losses) - self.n_converge
        if first < 0:
            return
        window = self.losses[first:]
        if window[0] == min(window):
            self.start = self.end = first
            self.threshold = sum(window) / len(window) * (1 + self.tolerance_ratio)
        else:
            del self._waiting[first]

    def _decide(self) -> None:
        """Whether segment ``end``, all of whose successors are known, belongs to the valley."""
        if min(self.losses[self.end : self.end + self.n_tolerance]) > self.threshold:
            self.over = True
            self._waiting.clear()
        else:
            self._accepted.add(self._waiting.pop(self.end))
            self.end += 1

    def average(self) -> State | None:
        """The mean over the valley if training ended now; None before it has started."""
        if self.start is None:
            return None
        mean = self._accepted.copy()
        for i in () if self.over else range(self.end, len(self.losses)):
            if min(self.losses[i:]) > self.threshold:
                break
            mean.add(self._waiting[i])
        return mean.state
