"""What updates cost: the arithmetic by hand, and that everything is measured; no test looks at a clock's value."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from sfmoe_dg.algorithms import ALGORITHMS, default_hparams
from sfmoe_dg.analysis.efficiency import (
    accuracy_against_cost,
    efficiency_table,
    measure_cost,
    pareto_front,
    peak_memory,
    peak_of_changes,
    prediction_macs,
    random_minibatches,
)
from sfmoe_dg.errors import UserError
from sfmoe_dg.models.macs import count_macs

TINY = {"dataset": "StyledDigits", "input_shape": (3, 32, 32), "num_classes": 5, "batch_size": 2, "steps": 2}


def algorithm(name="ERM", backbone="sf_moe_tiny_32"):
    torch.manual_seed(0)
    values = default_hparams(name, "StyledDigits") | {"backbone": backbone, "pretrained": False, "batch_size": 4}
    return ALGORITHMS.load(name)((3, 32, 32), 5, 3, values)


def test_peak_of_changes_by_hand():
    assert peak_of_changes([5, 10, -10, 4, -9]) == 15
    assert peak_of_changes([-3, 2]) == 0
    assert peak_of_changes([]) == 0


class Allocates(ALGORITHMS.load("ERM")):
    """An update that holds two tensors of 4 MiB at once, three in all."""

    def update(self, minibatches, unlabeled=None):
        held = torch.empty(2**20)
        for _ in range(2):
            again = torch.empty(2**20)
            del again
        del held
        return {}


def test_the_peak_of_an_update_is_what_it_holds_at_once():
    values = default_hparams("ERM", "StyledDigits") | {"backbone": "vit_tiny_32", "pretrained": False}
    model = Allocates((3, 32, 32), 5, 3, values)
    assert peak_memory(model, random_minibatches((3, 32, 32), 5, 3, 2)) == 2 * 4 * 2**20


def test_larger_batches_need_more_memory():
    model = algorithm()
    few, many = (peak_memory(model, random_minibatches((3, 32, 32), 5, 3, n)) for n in (2, 16))
    assert 0 < few < many


def test_a_cost_holds_what_was_measured():
    model = algorithm("CORAL")
    cost = measure_cost(model, random_minibatches((3, 32, 32), 5, 3, 4), steps=5, warmup=1)
    assert 0 < cost.seconds_low <= cost.seconds <= cost.seconds_high
    assert cost.steps == 5
    assert cost.parameters == sum(p.numel() for p in model.parameters())
    model.eval()
    assert cost.macs == count_macs(model.network, torch.randn(1, 3, 32, 32)).total
    with pytest.raises(UserError, match="0 timed"):
        measure_cost(model, random_minibatches((3, 32, 32), 5, 3, 4), steps=0)


def test_one_sided_algorithms_are_counted_as_they_predict():
    """ARM runs a network of its own before the backbone; an average of weights costs one network, not two."""
    x = torch.randn(4, 3, 32, 32)
    plain = prediction_macs(algorithm("ERM"), x)
    assert prediction_macs(algorithm("SMA"), x) == plain
    assert prediction_macs(algorithm("ARM"), x) > plain


def test_minibatches_are_the_same_at_every_call():
    one, two = (random_minibatches((3, 32, 32), 5, 2, 3) for _ in range(2))
    assert all(torch.equal(a, b) for pair in zip(one, two, strict=True) for a, b in zip(*pair, strict=True))
    assert not torch.equal(one[0][0], one[1][0])


def test_a_row_for_every_pair_and_a_reason_for_the_impossible():
    pairs = [("ERM", "resnet18"), ("CORAL", "sf_moe_tiny_32"), ("ERM", "v_moe_tiny_32"), ("ERM", "wide_net_tiny_32")]
    table = efficiency_table([*pairs, ("ERM", "vit_small"), ("MLDG", "vit_tiny_32")], num_domains=1, warmup=0, **TINY)
    assert list(zip(table["algorithm"], table["backbone"], strict=True))[:4] == pairs
    assert (table["images"] == 2).all()
    good, bad = table[:4], table[4:]
    assert (good["refused"] == "").all()
    assert (good[["seconds", "peak_bytes", "macs", "parameters"]] > 0).all().all()
    assert good["macs"][0] > good["macs"][1]
    assert "unknown backbone" in bad["refused"][4]
    assert "at least 2 training domains" in bad["refused"][5]
    assert bad["seconds"].isna().all()


def test_pareto_front_by_hand():
    costs = np.array([1, 2, 2, 3, 4, np.nan, 1])
    accuracies = np.array([0.5, 0.7, 0.6, 0.7, 0.9, 1.0, 0.5])
    # The two equal points stand together; the third costs as much as the second and is worse, the fourth costs more.
    assert pareto_front(costs, accuracies).tolist() == [True, True, False, False, True, False, True]
    assert pareto_front(np.array([]), np.array([])).tolist() == []


def test_accuracy_against_cost():
    accuracies = pd.DataFrame(
        {"algorithm": ["A", "B", "C"], "backbone": ["x"] * 3, "accuracy": [0.9, 0.8, 0.99], "stderr": [0.1, 0.2, 0.3]}
    )
    costs = pd.DataFrame({"algorithm": ["B", "A"], "backbone": ["x"] * 2, "seconds": [1.0, 0.5], "macs": [1, 7]})
    merged = accuracy_against_cost(accuracies, costs)
    assert merged["algorithm"].tolist() == ["A", "B", "C"]
    assert merged["on_front"].tolist() == [True, False, False]
    assert merged["stderr"].tolist() == [0.1, 0.2, 0.3]
    assert accuracy_against_cost(accuracies, costs, "macs")["on_front"].tolist() == [True, True, False]
    with pytest.raises(UserError, match="lacks the column 'joules'; it has algorithm"):
        accuracy_against_cost(accuracies, costs, "joules")
    with pytest.raises(UserError, match="costs has A on x twice"):
        accuracy_against_cost(accuracies, pd.concat([costs, costs[1:]]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_peak_memory_on_cuda_holds_at_least_the_weights():
    model = algorithm().to("cuda")
    minibatches = random_minibatches((3, 32, 32), 5, 3, 8, "cuda")
    assert peak_memory(model, minibatches) > sum(p.numel() * p.element_size() for p in model.parameters())
