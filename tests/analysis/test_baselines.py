"""Which properties of the observations every baseline keeps, and which it removes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from observation_makers import LAYER, random_observations

from sfmoe_dg.algorithms.registry import ALGORITHMS, default_hparams
from sfmoe_dg.analysis.statistics.baselines import shuffled, with_untrained_routers
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.models.moe.conditions import LEVELS
from sfmoe_dg.models.moe.layers import moe_layers


def pairs(layer) -> list:
    """First choice and weight of every token, which must travel together."""
    return list(zip(layer.experts[..., 0].reshape(-1).tolist(), layer.gates[..., 0].reshape(-1).tolist(), strict=True))


@given(st.integers(0, 99), st.sampled_from(["totals", "images", "positions"]))
def test_routes_change_places_whole(seed, keeping):
    found = random_observations(seed)
    other = shuffled(found, keeping, seed)
    before, after = found.patches(LAYER), other.patches(LAYER)
    assert sorted(pairs(before)) == sorted(pairs(after))
    assert pairs(before) != pairs(after)
    class_tokens = [o.layer(LAYER).experts[:, 0] for o in (found, other)]
    np.testing.assert_array_equal(*class_tokens)
    if keeping == "images":
        np.testing.assert_allclose(other.usage(LAYER), found.usage(LAYER))
    if keeping == "positions":
        tops = [np.sort(o.top_experts(LAYER), axis=0) for o in (found, other)]
        np.testing.assert_array_equal(*tops)


def test_the_seed_decides():
    found = random_observations(0)
    first, same, other = (shuffled(found, "totals", seed).top_experts(LAYER) for seed in (1, 1, 2))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)
    with pytest.raises(UserError, match="did you mean images"):
        shuffled(found, "image")


@pytest.mark.parametrize("router", ["linear", "cosine"])
def test_an_untrained_router_forgets_routers_alone(router):
    hparams = default_hparams("SFMoE", "StyledDigits") | {"router": router}
    torch.manual_seed(0)
    algorithm = ALGORITHMS.load("SFMoE")((3, 32, 32), 10, 3, hparams)
    state = torch.get_rng_state()
    before = {name: value.clone() for name, value in algorithm.state_dict().items()}
    other = with_untrained_routers(algorithm, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in algorithm.state_dict().items())
    changed = {name for name, value in other.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(".router." in name for name in changed)
    assert {layer for layer, _ in moe_layers(algorithm)} <= {name.partition(".router.")[0] for name in changed}
    again = with_untrained_routers(algorithm, seed=1).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in other.state_dict().items())


@pytest.mark.parametrize("level", LEVELS)
def test_routers_of_every_level_forget_all_they_learnt(level):
    torch.manual_seed(0)
    values = default_hparams("CondMoE", "StyledDigits") | {"routing_level": level}
    algorithm = ALGORITHMS.load("CondMoE")((3, 32, 32), 10, 3, values)
    learnt = {name: p for name, p in algorithm.named_parameters() if ".router." in name}
    with torch.no_grad():
        for parameter in learnt.values():
            parameter.fill_(7.0)
    other = dict(with_untrained_routers(algorithm).named_parameters())
    assert learnt
    assert not any((other[name] == 7.0).any() for name in learnt)


def test_a_dense_model_has_no_router():
    algorithm = ALGORITHMS.load("ERM")((3, 32, 32), 10, 3, default_hparams("ERM", "StyledDigits"))
    with pytest.raises(UserError, match="no router"):
        with_untrained_routers(algorithm)
