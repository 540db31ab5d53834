"""Means of weights, and the valley of the validation loss, against results by hand."""

import math

import pytest
import torch
from torch import nn

from sfmoe_dg.algorithms.shared.averages import LossValley, MovingAverage, RunningMean, move_towards, tensors


class Shared(nn.Module):
    """Two layers that share one parameter, and a counter."""

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
    """Average segments; the weights of segment i equal i."""
    for i, loss in enumerate(losses):
        valley.add(loss, {"w": torch.tensor(float(i))})
    return valley.average()["w"].item()


def test_valley_starts_where_the_loss_stops_falling_and_ends_before_it_has_risen():
    # N_s 2, N_e 3, r 0.5. Losses 5 4 fall; 2 is not undercut by 2.2: start at segment 2, threshold 2.1 · 1.5 = 3.15.
    valley = LossValley(2, 3, 0.5)
    # Of the last three, 4 2 2.2, those up to the start are 4 2; 4 is too high, so nothing joins yet. If training ended
    # now, what follows the oldest of the three would count.
    assert walk(valley, [5, 4, 2, 2.2]) == pytest.approx((2 + 3) / 2)
    assert valley.start == 2
    assert valley.threshold == pytest.approx(3.15)
    # Segment 2 joins when it is the oldest of three, 3 and 4 in their turn: 4 is too high, but not both that follow.
    for i, loss in ((4, 9.0), (5, 3.0), (6, 5.0), (7, 4.0)):
        valley.add(loss, {"w": torch.tensor(float(i))})
        assert not valley.over
    # If training ended now, the 6 and 7 that wait would not count: nothing below the threshold follows.
    assert valley.average()["w"].item() == pytest.approx((2 + 3 + 4 + 5) / 4)
    # The lowest of 5, 4 and 6 is above the threshold.
    valley.add(6.0, {"w": torch.tensor(8.0)})
    assert valley.over
    assert valley.average()["w"].item() == pytest.approx((2 + 3 + 4 + 5) / 4)
    valley.add(0.1, {"w": torch.tensor(1e6)})
    assert valley.average()["w"].item() == pytest.approx(3.5)


def test_segments_before_the_start_join_but_for_the_earliest_that_is_low_enough():
    # N_s 2, N_e 4, r 0.5. 2.6 is the first that its successor, 2.7, does not undercut: start 4, threshold 3.975. Of the
    # last four, 2 3 4 5, those up to the start are 2 3 4, all low enough; the earliest, 2, is left out: 3 and 4 join.
    valley = LossValley(2, 4, 0.5)
    mean = walk(valley, [9, 3.1, 2.9, 2.8, 2.6, 2.7, 2.7])
    assert valley.start == 4
    # One evaluation on, the oldest of the last four is 3, before the start. Training that ends here adds 4 5 6.
    assert mean == pytest.approx((3 + 4 + 4 + 5 + 6) / 5)


def test_valley_of_a_falling_loss_never_starts():
    valley = LossValley(3, 6, 0.3)
    assert valley.average() is None
    # The latest segment stands in.
    assert walk(valley, [8, 7, 6, 5, 4, 3, 2, 1]) == 7
    assert valley.start is None
    # Only segments that may still join wait.
    assert sorted(valley._waiting) == [2, 3, 4, 5, 6, 7]


def test_equal_losses_start_a_valley_at_the_first():
    valley = LossValley(3, 6, 0.3)
    walk(valley, [1, 1, 1])
    assert valley.start == 0


def test_a_loss_that_is_not_a_number_ends_the_valley():
    # N_e = N_s: the start is left out, as there is another.
    valley = LossValley(1, 1, 0.3)
    assert walk(valley, [1.0, 1.0, math.nan]) == 1
    assert valley.over


def test_a_valley_of_one_segment_is_that_segment():
    valley = LossValley(1, 1, 0.3)
    assert walk(valley, [1.0, 9.0]) == 0
    assert valley.over


AUTHORS = [
    # The loss falls slowly. When the valley starts at 6, 4 and 5 are low enough; 4, the earliest, is left out.
    (
        (3, 6, 0.3),
        [2.0, 1.5, 1.2, 1.0, 0.9, 0.8, 0.7, 0.75, 0.72, 0.8, 0.85, 0.95, 1.0, 0.9, 1.1, 1.05, 1.2, 0.99, 1.3, 1.2],
        (6, 0.9403333333333332, 19),
        {
            7: {7: 1},
            8: {4: 1, 5: 2, 6: 2, 7: 1, 8: 1},
            9: {5: 2, 6: 2, 7: 1, 8: 1, 9: 1},
            12: {5: 1, 6: 2, 7: 1, 8: 1, 9: 1, 10: 1},
            19: {5: 1, 6: 2, 7: 1, 8: 1, 9: 1, 10: 1, 11: 1, 12: 1, 13: 1},
        },
    ),
    # The loss falls steeply: nothing before the start is low enough. Training ends in the valley.
    (
        (3, 6, 0.3),
        [2.1, 1.4, 0.9, 0.5, 0.52, 0.51, 0.5, 0.6, 0.7, 0.8, 0.65, 0.7, 0.9, 0.71, 0.9],
        (3, 0.663, None),
        {
            5: {1: 1, 2: 1, 3: 1, 4: 1, 5: 1},
            6: {2: 1, 3: 1, 4: 1, 5: 1, 6: 1},
            9: {3: 1, 4: 1, 5: 1, 6: 1, 7: 1},
            14: {3: 1, 4: 1, 5: 1, 6: 1, 7: 1, 8: 1, 9: 1, 10: 1},
        },
    ),
    # The valley starts at the first segment of all.
    (
        (3, 6, 0.3),
        [1.0, 1.1, 1.2, 1.0, 1.25, 1.5, 1.6, 1.45, 1.7, 1.55, 1.52],
        (0, 1.43, 10),
        {
            2: {1: 2, 2: 2},
            3: {0: 1, 1: 2, 2: 2, 3: 1},
            10: {0: 3, 1: 2, 2: 2, 3: 1, 4: 1},
        },
    ),
    # The valley starts before there are six segments; VLCS's ratio.
    (
        (3, 6, 0.2),
        [1.3, 0.6, 0.65, 0.7, 0.62, 0.8, 0.9, 0.75, 0.76, 0.9],
        (1, 0.78, None),
        {
            3: {1: 1, 2: 2, 3: 2},
            6: {1: 1, 2: 2, 3: 2, 4: 1},
            9: {1: 1, 2: 2, 3: 2, 4: 1, 5: 1, 6: 1, 7: 1, 8: 1},
        },
    ),
    # As patient at the end as at the start, and less so.
    (
        (3, 3, 0.3),
        [1.5, 1.0, 1.1, 1.05, 1.2, 1.6, 1.3, 1.4, 1.45, 1.5],
        (1, 1.3650000000000002, 9),
        {3: {2: 1, 3: 1}, 5: {2: 1, 3: 1, 4: 1}, 9: {2: 1, 3: 1, 4: 1, 5: 1, 6: 1}},
    ),
    (
        (4, 2, 0.3),
        [1.5, 1.0, 1.1, 1.05, 1.2, 1.6, 1.3, 1.4, 1.45, 1.5],
        (1, 1.4137500000000003, 9),
        {4: {2: 1, 3: 1, 4: 1}, 7: {2: 1, 3: 1, 4: 1, 5: 1, 6: 1, 7: 1}, 9: {2: 1, 3: 1, 4: 1, 5: 1, 6: 1, 7: 1}},
    ),
]


@pytest.mark.parametrize(("settings", "losses", "valley_facts", "shares"), AUTHORS)
def test_valleys_are_those_of_the_authors_code(settings, losses, valley_facts, shares):
    """Start, threshold, segment at which the valley dies, and how often every segment counts by where training ends.

    The numbers come from ``LossValley`` and ``AveragedModel`` of khanrc/swad (December 2022), fed with these losses and
    with segments of a single weight vector that is 1 at the segment's number: the weights of ``get_final_model()``
    times ``n_averaged`` are how often each one counts. Every end was asked of a copy.
    """
    valley = LossValley(*settings)
    start, threshold, dies = valley_facts
    for i, loss in enumerate(losses):
        valley.add(loss, {"w": torch.eye(len(losses), dtype=torch.float64)[i]})
        assert valley.over == (i == dies)
        if i in shares:
            expected = torch.zeros(len(losses), dtype=torch.float64)
            for segment, count in shares[i].items():
                expected[segment] = count / sum(shares[i].values())
            torch.testing.assert_close(valley.average()["w"], expected)
    assert valley.start == start
    assert valley.threshold == threshold
