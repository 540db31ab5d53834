"""Routers, losses and allocation: arithmetic by hand, then invariants."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.models.moe.balance import assignment_loss, balance_loss, importance_loss, load_loss, weighted
from sfmoe_dg.models.moe.capacity import allocate, capacity, group_capacities, kept
from sfmoe_dg.models.moe.choice import top_k_experts
from sfmoe_dg.models.moe.routers import CosineRouter, LinearRouter
from sfmoe_dg.models.moe.routing import RoutingOptions, route

GATES = torch.tensor([[0.5, 0.4, 0.1], [0.3, 0.3, 0.4], [0.1, 0.2, 0.7], [0.8, 0.2, 0.0]])


def test_balance_and_importance_of_the_papers_example():
    # Best experts 0, 2, 2, 0: f = (1/2, 0, 1/2); P = (.425, .275, .3); 3 * (.2125 + .15) = 1.0875.
    assert balance_loss(GATES).item() == pytest.approx(1.0875)
    # Sums (1.7, 1.1, 1.2), mean 4/3, squared deviations .1344 + .0544 + .0178 = .2067; / 3 / (16/9) = .03875.
    assert importance_loss(GATES).item() == pytest.approx(0.03874999, abs=1e-7)


def test_load_of_the_papers_example():
    logits = torch.tensor([[0.9, 0.06, 0.04], [0.7, 0.18, 0.12], [0.85, 0.05, 0.1]])
    noise = torch.tensor([[-0.037, 0.026, -0.018], [-0.074, 0.045, -0.015], [-0.067, -0.059, 0.073]])
    assert load_loss(logits, logits + noise, 0.1, 2).item() == pytest.approx(0.4857386454, abs=2e-7)


@pytest.mark.parametrize(
    ("allocation", "slots"),
    [
        # Experts (0,2), (0,2), (2,0). First choices: expert 0 gets tokens 0, 1; expert 2 gets token 2 in slot 0.
        # Second choices: expert 2 gets tokens 0, 1 in slots 1, 2; expert 0 gets token 2 in slot 2.
        ("vanilla", [[0, 1], [1, 2], [0, 2]]),
        # By largest gate the tokens are 2, 1, 0.
        ("batch_priority", [[1, 2], [0, 1], [0, 2]]),
        # Token by token: 0:(0,2) slots 0,0; 1:(0,2) slots 1,1; 2:(2,0) slots 2,2.
        ("token_order", [[0, 0], [1, 1], [2, 2]]),
    ],
)
def test_allocation_of_the_papers_example(allocation, slots):
    gates = torch.tensor([[0.4, 0.0, 0.2], [0.5, 0.1, 0.4], [0.3, 0.2, 0.6]])
    experts = top_k_experts(gates, 2)
    assert experts.tolist() == [[0, 2], [0, 2], [2, 0]]
    assert allocate(experts, gates.gather(1, experts), 3, 3, allocation).tolist() == slots


def test_priority_by_the_sum_of_the_chosen_gates():
    gates = torch.tensor([[0.5, 0.0], [0.4, 0.4]])
    experts = torch.tensor([[0, 1], [0, 1]])
    assert allocate(experts, gates, 2, 2, "batch_priority", "max").tolist() == [[0, 0], [1, 1]]
    assert allocate(experts, gates, 2, 2, "batch_priority", "sum").tolist() == [[1, 1], [0, 0]]


def test_capacity_rounding():
    # V-MoE S/32: 400 tokens, K 2, C 1.05, E 32: 26.25.
    assert [capacity(400, 32, 2, 1.05, r) for r in ("round", "ceil", "ceil4", "floor")] == [26, 27, 28, 26]
    assert capacity(197, 6, 1, 1.25, "floor", minimum=50) == 50
    # 20 * 1.1 is 22.000000000000004 in binary; that is not a reason for a 23rd slot.
    assert capacity(20, 1, 1, 1.1, "ceil") == 22
    assert group_capacities(10, 4, 2, 1, 1.0, "round", 1) == [2, 2, 1]


def test_the_last_group_may_be_short():
    experts = torch.zeros(5, 1, dtype=torch.int64)
    slots = allocate(experts, torch.ones(5, 1), 2, 3, "vanilla")
    assert slots.flatten().tolist() == [0, 1, 0, 1, 0]
    assert kept(slots, torch.tensor([1, 2, 0]), 2).flatten().tolist() == [True, False, True, True, False]


@st.composite
def gates_and_sizes(draw):
    num_experts = draw(st.integers(1, 8))
    top_k = draw(st.integers(1, num_experts))
    num_tokens = draw(st.integers(1, 40))
    seed = draw(st.integers(0, 2**31))
    logits = torch.randn(num_tokens, num_experts, generator=torch.Generator().manual_seed(seed))
    return logits, top_k, draw(st.integers(1, 12)), draw(st.sampled_from([0.25, 0.5, 1.0, 1.3]))


@settings(max_examples=60, deadline=None)
@given(gates_and_sizes())
def test_the_order_changes_who_is_dropped_but_not_how_many(case):
    logits, top_k, group_size, ratio = case
    num_tokens, num_experts = logits.shape
    probs = logits.softmax(-1)
    experts = top_k_experts(probs, top_k)
    chosen = probs.gather(1, experts)
    capacities = torch.tensor(group_capacities(num_tokens, group_size, num_experts, top_k, ratio, "ceil", 1))
    group = torch.arange(num_tokens) // group_size
    by_order = {}
    for allocation in ("vanilla", "batch_priority", "token_order"):
        slots = allocate(experts, chosen, group_size, num_experts, allocation)
        by_order[allocation] = kept(slots, capacities, group_size)
    for g in range(len(capacities)):
        for e in range(num_experts):
            assigned = (experts == e) & (group == g)[:, None]
            expected = min(int(assigned.sum()), int(capacities[g]))
            for mask in by_order.values():
                assert int((mask & assigned).sum()) == expected
            if top_k == 1:  # batch priority keeps the best that fit
                best = chosen[assigned].sort(descending=True).values[:expected].sum()
                torch.testing.assert_close(chosen[by_order["batch_priority"] & assigned].sum(), best)
    total = sum(c * num_experts for c in capacities.tolist())
    for mask in by_order.values():
        assert 1 - mask.float().mean() >= 1 - total / (top_k * num_tokens) - 1e-6


@settings(max_examples=30, deadline=None)
@given(gates_and_sizes(), st.sampled_from(["vanilla", "batch_priority", "token_order"]))
def test_nothing_is_dropped_with_a_slot_for_every_token(case, allocation):
    logits, top_k, group_size, _ = case
    num_experts = logits.shape[1]
    # K·S·ratio/E >= S
    options = RoutingOptions(
        num_experts,
        top_k,
        eval_capacity_ratio=num_experts / top_k,
        group=group_size,
        allocation=allocation,
        rounding="ceil",
    )
    limited = route(logits, options, False, 1)
    free = route(logits, options.changed({"eval_capacity_ratio": None}), False, 1)
    assert limited.kept_TK.all()
    assert free.kept_TK is None
    assert torch.equal(limited.gates_TK, free.gates_TK)
    assert torch.equal(limited.experts_TK, free.experts_TK)


@pytest.mark.parametrize("num_experts", [1, 2, 6])
def test_uniform_routing_costs_one(num_experts):
    experts = torch.arange(4 * num_experts).remainder(num_experts)
    probs = torch.full((len(experts), num_experts), 1 / num_experts)
    assert balance_loss(probs).item() == pytest.approx(1.0)  # P alone decides: every f sums to one
    assert assignment_loss(probs, experts[:, None]).item() == pytest.approx(1.0)
    assert importance_loss(probs).item() == pytest.approx(0.0, abs=1e-10)


def test_losses_are_means_over_groups_with_a_short_one_last():
    options = RoutingOptions(3, 1, group=3, losses=(("balance", 2.0), ("importance", 1.0)))
    logits = torch.randn(7, 3)
    found = route(logits, options, True, 1).losses
    probs = logits.softmax(-1)
    groups = [probs[:3], probs[3:6], probs[6:]]
    assert found["balance"].item() == pytest.approx(2 * sum(balance_loss(p).item() for p in groups) / 3, rel=1e-5)
    assert found["importance"].item() == pytest.approx(sum(importance_loss(p).item() for p in groups) / 3, rel=1e-5)


def test_noise_is_for_training_and_importance_does_not_see_it():
    options = RoutingOptions(4, 2, noise=1.0, losses=weighted("importance_load", 0.01))
    logits = torch.randn(50, 4)
    evaluated, again = (route(logits, options, False, 10) for _ in range(2))
    assert torch.equal(evaluated.gates_TK, again.gates_TK)
    assert set(evaluated.losses) == {"importance"}  # load is defined by the noise
    torch.manual_seed(0)
    trained = route(logits, options, True, 10)
    torch.manual_seed(0)
    noisy = logits + torch.randn(50, 4) / 4
    assert torch.equal(trained.experts_TK, noisy.topk(2).indices)
    torch.testing.assert_close(trained.gates_TK, noisy.softmax(-1).topk(2).values)
    assert set(trained.losses) == {"importance", "load"}
    assert trained.losses["importance"].item() == pytest.approx(0.005 * importance_loss(logits.softmax(-1)).item())
    assert trained.losses["load"].item() == pytest.approx(0.005 * load_loss(logits, noisy, 0.25, 2).item())
    assert torch.equal(trained.probs_TE, logits.softmax(-1))


def test_gates_are_raw_or_sum_to_one():
    logits = torch.randn(9, 5)
    probs = logits.softmax(-1)
    raw = route(logits, RoutingOptions(5, 3), False, 9)
    assert torch.equal(raw.gates_TK, probs.gather(1, raw.experts_TK))
    normal = route(logits, RoutingOptions(5, 3, renormalize=True), False, 9)
    torch.testing.assert_close(normal.gates_TK.sum(1), torch.ones(9))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.data())
def test_top_k_is_a_stable_sort(num_experts, data):
    top_k = data.draw(st.integers(1, num_experts))
    scores = torch.randint(0, 3, (20, num_experts)).float()  # many ties
    assert torch.equal(
        top_k_experts(scores, top_k), torch.sort(scores, dim=-1, descending=True, stable=True).indices[:, :top_k]
    )


@pytest.mark.parametrize("router", [LinearRouter(8, 4), CosineRouter(8, 4)])
def test_routers_stay_in_float32_under_autocast(router):
    x = torch.randn(5, 8)
    expected = router(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(router(x), expected)
        routing = route(router(x), RoutingOptions(4, 2), False, 5)
    assert routing.gates_TK.dtype == torch.float32
    assert router.double()(x.double()).dtype == torch.float64
    assert router.bfloat16()(x.bfloat16()).dtype == torch.float32
    router.float()


def test_cosine_router_by_hand():
    router = CosineRouter(2, 2, proj_dim=2)
    with torch.no_grad():
        router.proj.weight.copy_(torch.eye(2))
        router.proj.bias.zero_()
        router.embeddings.copy_(torch.tensor([[3.0, 0.0], [0.0, 0.1]]))
    # cos((1,1), e0) = cos((1,1), e1) = 1/√2; the temperature starts at 1/2. Lengths do not matter.
    torch.testing.assert_close(router(torch.tensor([[5.0, 5.0]])), torch.full((1, 2), 2 * 2**-0.5))
    with torch.no_grad():
        router.log_scale.fill_(50.0)
    torch.testing.assert_close(router(torch.tensor([[5.0, 0.0]])), torch.tensor([[100.0, 0.0]]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top_k": 0}, "top_k is 0"),
        ({"top_k": 5}, "between 1 and the number of experts, 4"),
        ({"top_k": True}, "top_k is True"),
        ({"capacity_ratio": 0}, "capacity_ratio is 0"),
        ({"eval_capacity_ratio": "much"}, "eval_capacity_ratio is 'much'"),
        ({"allocation": "batch_prority"}, "did you mean batch_priority"),
        ({"rounding": "ceil5"}, "unknown capacity rounding"),
        ({"group": 0}, "routing group is 0"),
        ({"noise": float("nan")}, "router noise"),
        ({"priority": "mean"}, "unknown priority"),
        ({"losses": (("balanc", 1.0),)}, "did you mean balance"),
        ({"losses": (("balance", -1.0),)}, "weight of routing loss 'balance' is -1.0"),
        ({"losses": (("balance", float("inf")),)}, "weight of routing loss 'balance' is inf"),
        ({"losses": (("load", "much"),)}, "weight of routing loss 'load' is 'much'"),
        ({"min_capacity": -1}, "min_capacity is -1"),
        ({"min_capacity": "four"}, "min_capacity is 'four'"),
        ({"min_capacity": True}, "min_capacity is True"),
        ({"top-k": 1}, "did you mean top_k"),
    ],
)
def test_options_that_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        RoutingOptions(4).changed(changes)


def test_loss_mixtures_that_are_refused():
    with pytest.raises(UserError, match="unknown routing loss 'balans'"):
        weighted("balans", 1.0)
    with pytest.raises(UserError, match="routing_loss_weight is -1"):
        weighted("balance", -1)


def test_no_tokens_at_all():
    options = RoutingOptions(3, 2, eval_capacity_ratio=1.0, losses=(("balance", 1.0),))
    routing = route(torch.zeros(0, 3), options, False, 4)
    assert routing.experts_TK.shape == routing.gates_TK.shape == routing.kept_TK.shape == (0, 2)
    assert routing.losses["balance"] == 0
