"""Draws equal DomainBed's to the last bit; overrides are checked."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfmoe_dg.algorithms.registry import default_hparams, hparam_table, random_hparams
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.runs.hparams import (
    Hparam,
    check_overrides,
    choice,
    log10_uniform,
    parse_overrides,
    random_values,
    resolve,
)


def test_golden_draw_of_erm_on_pacs():
    drawn = random_hparams("ERM", "PACS", 12345)
    expected = {
        "lr": 1.5535772737707375e-05,
        "weight_decay": 3.0379553951653952e-05,
        "batch_size": 38,
        "resnet_dropout": 0.5,
        "vit_dropout": 0.5,
    }
    assert {name: drawn[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("dataset", "lr", "batch_size"),
    [("RotatedMNIST", 1e-3, 64), ("Debug28", 1e-3, 64), ("PACS", 5e-5, 32), ("DomainNet", 5e-5, 32)],
)
def test_defaults_of_upstream(dataset, lr, batch_size):
    values = default_hparams("ERM", dataset)
    assert values["lr"] == lr
    assert values["batch_size"] == batch_size
    assert values["weight_decay"] == 0.0
    assert values["resnet50_augmix"] is True
    assert values["linear_steps"] == 500


@pytest.mark.parametrize("dataset", ["RotatedMNIST", "PACS", "DomainNet", "StyledDigits", "ImageFolder"])
@pytest.mark.parametrize("algorithm", ["ERM", "CORAL", "SFMoE"])
def test_draws_are_json_and_stay_in_range(algorithm, dataset):
    for seed in range(20):
        values = json.loads(json.dumps(random_hparams(algorithm, dataset, seed)))
        assert 0 < values["lr"] < 1e-2
        assert isinstance(values["batch_size"], int)
        check_overrides(hparam_table(algorithm, dataset), values, "a draw")


@given(st.integers(0, 2**31 - 1), st.permutations(["a", "b", "c", "d"]))
def test_a_draw_does_not_depend_on_order_or_neighbours(seed, names):
    table = {name: Hparam(0.0, log10_uniform(-3, 1)) for name in names}
    drawn = random_values(table, seed)
    assert drawn == {name: random_values({name: table[name]}, seed)[name] for name in "abcd"}


def test_numpy_numbers_become_plain_ones():
    value = random_values({"n": Hparam(1, choice(1, 2))}, 0)["n"]
    assert type(value) is int


def test_seed_zero_means_defaults_and_trials_draw_anew_unless_told_otherwise():
    table = {"lr": Hparam(1.0, log10_uniform(-3, 1))}
    assert resolve(table, 0, 5, {}) == {"lr": 1.0}
    assert resolve(table, 3, 0, {}) != resolve(table, 3, 1, {})
    assert resolve(table, 3, 0, {}, per_trial=False) == resolve(table, 3, 1, {}, per_trial=False)
    assert resolve(table, 3, 0, {}) == resolve(table, 3, 1, {}, per_trial=False)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"lrr": 1.0}, "unknown hyper-parameter 'lrr' in --hparams: did you mean lr"),
        ({"lr": "fast"}, "'lr' in --hparams is 'fast'; it must be a number"),
        ({"lr": float("nan")}, "must be a finite number"),
        ({"lr": True}, "must be a number"),
        ({"batch_size": 3.5}, "must be a whole number"),
        ({"batch_size": None}, "must be a whole number"),
        ({"router": "square"}, "allowed: 'default', 'linear', 'cosine'"),
        ({"resnet18": 1}, "must be true or false"),
        ({"pretrained": 3}, "must be a string or true or false"),
    ],
)
def test_bad_overrides(overrides, message):
    with pytest.raises(UserError, match=message):
        resolve(hparam_table("ERM", "PACS"), 0, 0, overrides)


def test_an_integer_may_stand_for_a_number():
    assert resolve(hparam_table("ERM", "PACS"), 0, 0, {"lr": 1})["lr"] == 1


@pytest.mark.parametrize("text", ["{lr: 1}", "[1]", "3", "{'lr': 1}"])
def test_bad_json(text):
    with pytest.raises(UserError, match=r"--hparams (is not valid JSON|must be a JSON object)"):
        parse_overrides(text)


def test_samples_are_keyed_like_upstream():
    state = np.random.RandomState(7)
    assert Hparam(0, lambda r: r.uniform(0, 1)).sample(state) == np.random.RandomState(7).uniform(0, 1)
