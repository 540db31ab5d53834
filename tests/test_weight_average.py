"""Means of weights, and the valley of the validation loss, by hand."""

import math

import pytest
import torch
from torch import nn

from sfmoe_dg.weight_average import LossValley, MovingAverage, RunningMean, move_towards, tensors


class Shared(nn.Module):
    """Two layers that are one parameter, and a counter."""

    def __init__(self, value):
        super().__init__()
        self.first = nn.Linear(1, 1, bias=False)
        self.second = self.first
        nn.init.constant_(self.first.weight, value)
        self.register_buffer("count", torch.tensor(int(value)))

    def forward(self, x):
        return self.second(self.first(x))


def test_shared_parameters_are_listed_and_moved_once():
    network = Shared(0.0)
    assert list(tensors(network)) == ["first.weight", "count"]
    move_towards(tensors(network), tensors(Shared(8.0)), 0.25)
    assert network.second.weight.item() == 2.0
    assert network.count == 8


def test_running_mean_of_three():
    mean = RunningMean()
    for value in (1.0, 2.0, 6.0):
        mean.add({"w": torch.tensor(value)})
    assert mean.state["w"] == pytest.approx(3.0)
    assert mean.count == 3


def test_running_mean_keeps_no_hold_of_what_it_was_given():
    weight = torch.tensor([1.0])
    mean = RunningMean()
    mean.add({"w": weight})
    copied = mean.copy()
    weight += 1
    mean.add({"w": weight})
    assert mean.state["w"] == 1.5
    assert copied.state["w"] == 1.0


def test_moving_average_follows_and_then_averages():
    # Start 3: updates 1 and 2 are followed (the last, 2, counts as the first of the mean), 3 and 4 averaged in.
    average = MovingAverage(Shared(9.0), start=3)
    seen = []
    for value in (1.0, 2.0, 6.0, 10.0):
        average.update(Shared(value))
        seen.append(average.network.first.weight.item())
    assert seen == pytest.approx([1.0, 2.0, (2 + 6) / 2, (2 + 6 + 10) / 3])
    # The square of the mean weight, since the layer is applied twice.
    assert average(torch.tensor([[1.0]])).item() == pytest.approx(36.0)
    assert not any(p.requires_grad for p in average.parameters())


def test_moving_average_goes_on_after_a_round_trip():
    first, other = MovingAverage(Shared(0.0), start=1), MovingAverage(Shared(0.0), start=1)
    first.update(Shared(3.0))
    other.load_state_dict(first.state_dict())
    for average in (first, other):
        average.update(Shared(6.0))
    # (0 + 3 + 6) / 3
    assert first.network.first.weight.item() == other.network.first.weight.item() == pytest.approx(3.0)


def walk(valley, losses):
    """Segment i has the weight i."""
    for i, loss in enumerate(losses):
        valley.add(loss, {"w": torch.tensor(float(i))})
    mean = valley.average()
    return None if mean is None else mean["w"].item()


def test_valley_starts_where_the_loss_stops_falling_and_ends_before_it_has_risen():
    # N_s 2, N_e 2, r 0.5. Losses 4 3 fall; 2 is not undercut by 2.2: start at segment 2, threshold 2.1 · 1.5 = 3.15.
    valley = LossValley(2, 2, 0.5)
    assert walk(valley, [4, 3, 2, 2.2]) == pytest.approx(2.5)
    assert valley.start == 2
    assert valley.threshold == pytest.approx(3.15)
    # Segment 4 is too high alone but its successor is not: min(9, 3) = 3; segment 6: min(5, 4) > 3.15 ends it.
    for i, loss in ((4, 9.0), (5, 3.0), (6, 5.0)):
        valley.add(loss, {"w": torch.tensor(float(i))})
        assert not valley.over
    # If training ended now, 5 would still count and 6, which nothing below the threshold follows, would not.
    assert valley.average()["w"].item() == pytest.approx((2 + 3 + 4 + 5) / 4)
    valley.add(4.0, {"w": torch.tensor(7.0)})
    assert valley.over
    assert (valley.start, valley.end) == (2, 6)
    assert valley.average()["w"].item() == pytest.approx((2 + 3 + 4 + 5) / 4)
    valley.add(0.1, {"w": torch.tensor(1e6)})
    assert valley.average()["w"].item() == pytest.approx(3.5)


def test_valley_of_a_falling_loss_never_starts():
    valley = LossValley(3, 6, 0.3)
    assert walk(valley, [5, 4, 3, 2, 1]) is None
    assert valley.start is None
    # Only segments that may still be the start wait: the last two.
    assert sorted(valley._waiting) == [3, 4]


def test_valley_that_training_does_not_leave():
    # Start 0 (1 ≤ 1.1, 1.2), threshold 1.1 · 1.3 = 1.43; all six belong.
    assert walk(LossValley(3, 6, 0.3), [1, 1.1, 1.2, 1.0, 1.1, 1.2]) == pytest.approx(2.5)


def test_equal_losses_start_a_valley_at_the_first():
    valley = LossValley(3, 6, 0.3)
    walk(valley, [1, 1, 1])
    assert valley.start == 0


def test_a_loss_that_is_not_a_number_ends_the_valley():
    valley = LossValley(1, 1, 0.3)
    assert walk(valley, [1.0, 1.0, math.nan]) == pytest.approx(0.5)
    assert valley.over
