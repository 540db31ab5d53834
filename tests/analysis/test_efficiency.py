"""The cost of updates: arithmetic against results by hand, and every value is measured. No test depends on a time."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from sfmoe_dg.algorithms.registry import ALGORITHMS, default_hparams
from sfmoe_dg.analysis.efficiency import compute as efficiency
from sfmoe_dg.analysis.efficiency.compute import (
    accuracy_against_cost,
    default_methods,
    efficiency_table,
    measure_cost,
    pareto_front,
    peak_memory,
    peak_of_changes,
    prediction_macs,
    random_minibatches,
    resident_bytes,
)
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.models.macs import count_macs


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
    pairs = [("ERM", "test_resnet"), ("CORAL", "sf_moe_tiny_32"), ("ERM", "v_moe_tiny_32"), ("ERM", "wide_net_tiny_32")]
    methods = default_methods([*pairs, ("ERM", "vit_small"), ("MLDG", "vit_tiny_32")], "StyledDigits")
    table = efficiency_table(methods, random_minibatches((3, 32, 32), 5, 1, 2), 5, steps=2, warmup=0)
    assert list(zip(table["algorithm"], table["backbone"], strict=True))[:4] == pairs
    assert (table["images"] == 2).all()
    good, bad = table[:4], table[4:]
    assert (good["refused"] == "").all()
    assert (good[["seconds", "peak_bytes", "macs", "parameters"]] > 0).all().all()
    assert good["macs"][0] < good["macs"][1]
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


def test_what_an_algorithm_keeps_by_hand():
    model = torch.nn.Linear(3, 2)  # 8 numbers of 4 bytes
    model.register_buffer("seen", torch.zeros(5, dtype=torch.int64))  # 5 of 8
    cpu = torch.device("cpu")
    assert resident_bytes(model, cpu) == 8 * 4 + 5 * 8
    model.optimizer = torch.optim.Adam([model.weight])
    model.weight.grad = torch.ones(2, 3)
    model.optimizer.step()  # two moments per weight, and the number of steps
    assert resident_bytes(model, cpu) == 8 * 4 + 5 * 8 + 6 * 4 + 2 * 6 * 4 + 4
    assert resident_bytes(model, torch.device("meta")) == 0


def test_what_else_lies_on_a_device_is_no_part_of_an_update(monkeypatch):
    """Before: 1000 bytes, 72 of them the algorithm's; at the worst 1500. So the update needs 500 beside its own 72."""
    numbers = {
        "memory_allocated": 1000,
        "max_memory_allocated": 1500,
        "reset_peak_memory_stats": None,
        "synchronize": 0,
    }
    for name, value in numbers.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    monkeypatch.setattr(efficiency, "resident_bytes", lambda algorithm, device: 72)
    monkeypatch.setattr(efficiency, "_update", lambda algorithm, minibatches: None)
    x = SimpleNamespace(device=torch.device("cuda", 0))
    assert peak_memory(algorithm(), [(x, x)]) == 500 + 72


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_neighbour_on_the_device_does_not_count():
    minibatches = random_minibatches((3, 32, 32), 5, 3, 8, "cuda")
    model = algorithm().to("cuda")
    peak_memory(model, minibatches)  # the first update makes gradients and the optimiser's state
    alone = peak_memory(model, minibatches)
    neighbour = torch.empty(2**28, device="cuda")
    assert abs(peak_memory(model, minibatches) - alone) < neighbour.nbytes / 100


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_peak_memory_on_cuda_holds_at_least_the_weights():
    model = algorithm().to("cuda")
    minibatches = random_minibatches((3, 32, 32), 5, 3, 8, "cuda")
    assert peak_memory(model, minibatches) > sum(p.numel() * p.element_size() for p in model.parameters())
