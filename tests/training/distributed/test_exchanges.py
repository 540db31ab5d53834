"""The data that each process holds and sends, against results by hand for two processes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from processes import on_processes
from torch import nn

from sfmoe_dg.data.batches.loaders import ALONE
from sfmoe_dg.foundation.processes import GlobalBatch, World, all_max, exchange_rows, gather_all, share_of
from sfmoe_dg.models.moe.expert_parallel import held_experts
from sfmoe_dg.models.moe.layers import FFNExperts
from sfmoe_dg.models.moe.whole_batch import RowDropout, WholeBatchNorm, WholeDropout, share_layers


def test_shares_are_neighbours():
    assert [share_of(8, World(rank, 4)) for rank in range(4)] == [slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 8)]
    assert share_of(5, ALONE) == slice(0, 5)


def test_experts_are_held_by_neighbours():
    assert held_experts(6, World(0, 4)) == [range(0, 2), range(2, 4), range(4, 5), range(5, 6)]
    assert held_experts(4, World(1, 2)) == [range(0, 2), range(2, 4)]


def test_a_process_takes_its_share_of_every_domain():
    # Two domains of four images; the second of two processes has the last two of each.
    whole = torch.arange(8)
    assert GlobalBatch(World(1, 2), parts=2).take(whole).tolist() == [2, 3, 6, 7]
    assert GlobalBatch(World(1, 2), parts=1).take(whole).tolist() == [4, 5, 6, 7]
    assert GlobalBatch(World(1, 2)).whole_shape((3, 5)) == (6, 5)


def exchange(world: World) -> dict[str, Any]:
    found: dict[str, Any] = {}
    # Two domains; process 0 has rows 0 and 20, process 1 has 10 and 30.
    rows = torch.tensor([[0.0], [20.0]]) + 10 * world.rank
    rows.requires_grad_()
    whole = GlobalBatch(world, parts=2).gather(rows)
    (whole * torch.tensor([[1.0], [2.0], [3.0], [4.0]])).sum().backward()
    found["whole"], found["gradient"] = whole.tolist(), rows.grad.tolist()
    # Process 0 sends one row to itself and two to process 1; process 1 sends one to 0 and none to itself.
    sent = [[1, 2], [1, 0]][world.rank]
    received = [[1, 1], [2, 0]][world.rank]
    given = torch.arange(sum(sent), dtype=torch.float32)[:, None] + 100 * world.rank
    given.requires_grad_()
    arrived = exchange_rows(given, sent, received)
    (arrived * (10 * world.rank + torch.arange(len(arrived))[:, None])).sum().backward()
    found["arrived"], found["sent gradient"] = arrived.tolist(), given.grad.tolist()
    found["all_max"] = all_max(world.rank, -world.rank)
    found["gather_all"] = gather_all({"rank": world.rank})
    return found


def whole_layers(world: World) -> dict[str, Any]:
    found: dict[str, Any] = {}
    batch = GlobalBatch(world, parts=2)
    torch.manual_seed(5)
    x = torch.randn(8, 3, 2, 2, dtype=torch.float64)
    upstream = torch.randn_like(x)
    own = batch.take(x).requires_grad_()
    norm = nn.Sequential(nn.BatchNorm2d(3)).double()
    share_layers(norm, batch)
    (norm(own) * batch.take(upstream)).sum().backward()
    one = nn.BatchNorm2d(3).double()
    there = x.clone().requires_grad_()
    (one(there) * upstream).sum().backward()
    found["norm"] = type(norm[0]) is WholeBatchNorm
    found["norm gradient"] = (own.grad - batch.take(there.grad)).abs().max().item()
    found["norm weights"] = gather_all(norm[0].weight.grad.tolist())
    found["norm weights alone"] = one.weight.grad.tolist()
    found["running"] = (norm[0].running_var - one.running_var).abs().max().item()

    torch.manual_seed(6)
    mask = nn.Dropout(0.5)(torch.ones(8, 3))
    torch.manual_seed(6)
    dropout = nn.Sequential(nn.Dropout(0.5))
    share_layers(dropout, batch)
    found["dropout"] = type(dropout[0]) is WholeDropout and dropout(torch.ones(4, 3)).equal(batch.take(mask))

    experts = nn.Sequential(FFNExperts(2, 4, 8, drop=0.5))
    share_layers(experts, batch)
    rows: Any = experts[0].drop
    dropped = rows(torch.ones(1000, 8))
    found["rows"] = type(rows) is RowDropout
    found["masks"] = gather_all(dropped.tolist())
    found["state"] = gather_all(torch.get_rng_state().tolist())
    return found


@pytest.mark.slow
def test_rows_and_gradients_travel():
    first, second = on_processes(2, exchange)
    for found in (first, second):
        assert found["whole"] == [[0], [10], [20], [30]]
        assert found["all_max"] == [1, 0]
        assert found["gather_all"] == [{"rank": 0}, {"rank": 1}]
    # Weights 1 and 3 belong to process 0's rows, times the two processes.
    assert (first["gradient"], second["gradient"]) == ([[2], [6]], [[4], [8]])
    assert (first["arrived"], second["arrived"]) == ([[0], [100]], [[1], [2]])
    # Each row's gradient is what it was multiplied by where it went, not rescaled.
    assert (first["sent gradient"], second["sent gradient"]) == ([[0], [10], [11]], [[1]])


@pytest.mark.slow
def test_layers_see_the_whole_batch():
    for found in on_processes(2, whole_layers):
        assert found["norm"]
        assert found["norm gradient"] < 1e-12
        both = [sum(values) for values in zip(*found["norm weights"], strict=True)]
        assert both == pytest.approx(found["norm weights alone"])
        assert found["running"] < 1e-12
        assert found["dropout"]
        assert found["rows"]
        first, second = (torch.tensor(mask) for mask in found["masks"])
        assert not first.equal(second)
        for mask in (first, second):
            assert set(mask.unique().tolist()) == {0, 2}
            assert mask.mean().item() == pytest.approx(1, abs=0.06)  # 8000 draws: five standard deviations
        # The global generators stay together, however many rows a process has.
        assert found["state"][0] == found["state"][1]
