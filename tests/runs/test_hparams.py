"""Draws equal DomainBed's to the last bit; overrides are checked."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfmoe_dg.algorithms.registry import ALGORITHMS, default_hparams, hparam_table, random_hparams
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


KINDS = ("RotatedMNIST", "StyledDigits", "PACS", "VLCS", "TerraIncognita", "DomainNet", "ImageFolder")
"""Data sets with which hyper-parameter tables differ."""


def test_draws_are_json_and_in_range():
    """200 seeds of everything that random search draws; equal first draws of a name mean the same distribution."""
    distinct = {}
    for algorithm in ALGORITHMS:
        for dataset in KINDS:
            table = hparam_table(algorithm, dataset)
            check_overrides(table, default_hparams(algorithm, dataset), "the defaults")
            for name, hparam in table.items():
                if hparam.draw is not None:
                    distinct[name, hparam.drawn(0, name), hparam.allowed] = f"{algorithm} on {dataset}", hparam
    assert len(distinct) > 60
    for (name, *_), (where, hparam) in distinct.items():
        for seed in range(200):
            value = json.loads(json.dumps(hparam.drawn(seed, name)))
            assert hparam.accepts(value), f"{where} draws {name} = {value!r} with seed {seed}"
            assert name != "lr" or 0 < value < 1e-2


def ranges():
    """Every declared range of every algorithm, once: (algorithm, name, its Hparam)."""
    for algorithm in ALGORITHMS:
        for name, hparam in hparam_table(algorithm, "PACS").items():
            if any(map(math.isfinite, (hparam.low, hparam.high, hparam.above, hparam.below))):
                yield algorithm, name, hparam


RANGES = list(ranges())


def numbers(hparam):
    """Numbers around the bounds of a range; whole numbers if only those have the right type."""
    types = hparam.types or (type(hparam.default),)
    near = st.one_of(st.floats(-2, 2), st.floats(allow_nan=False, allow_infinity=False))
    return near | st.integers(-3, 3) if float in types else st.integers()


@given(st.data())
@settings(max_examples=500, deadline=None)
def test_values_inside_a_range_are_accepted_and_values_outside_refused_in_one_sentence(data):
    algorithm, name, hparam = data.draw(st.sampled_from(RANGES))
    value = data.draw(numbers(hparam))
    inside = hparam.low <= value <= hparam.high and hparam.above < value < hparam.below
    assert hparam.accepts(value) == inside
    if inside:
        assert resolve(hparam_table(algorithm, "PACS"), 0, 0, {name: value})[name] == value
        return
    with pytest.raises(UserError) as refusal:
        resolve(hparam_table(algorithm, "PACS"), 0, 0, {name: value})
    assert str(refusal.value) == f"hyper-parameter {name!r} in hparams is {value!r}; it must be {hparam.allowed}"
    bounds = [bound for bound in (hparam.low, hparam.high, hparam.above, hparam.below) if math.isfinite(bound)]
    assert all(f" {bound}" in hparam.allowed for bound in bounds)


@pytest.mark.parametrize("algorithm", list(ALGORITHMS))
def test_every_algorithm_refuses_what_no_training_can_use(algorithm):
    for name, value in {"lr": 0, "batch_size": 0, "weight_decay": -1e-9, "drop_path": 1.5, "num_experts": 0}.items():
        with pytest.raises(UserError, match=f"hyper-parameter '{name}' in hparams is"):
            resolve(hparam_table(algorithm, "PACS"), 0, 0, {name: value})


@pytest.mark.parametrize(
    ("hparam", "allowed"),
    [
        (Hparam(0.5, low=0, below=1), "a finite number of at least 0 and below 1"),
        (Hparam(0.5, above=0, high=1), "a finite number above 0 and of at most 1"),
        (Hparam(3, low=1, high=5), "a whole number between 1 and 5"),
        (Hparam(0, types=(float, int)), "a finite number"),
        (Hparam(False), "true or false"),
        (Hparam("a", choices=("a", "b")), "one of 'a', 'b'"),
        (Hparam(None, types=(float,), choices=(None,), above=0), "a finite number above 0, or null"),
    ],
)
def test_allowed_values_in_words(hparam, allowed):
    assert hparam.allowed == allowed
    assert hparam.accepts(hparam.default)


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
        ({"lrr": 1.0}, "unknown hyper-parameter 'lrr' in hparams: did you mean lr"),
        ({"lr": "fast"}, "'lr' in hparams is 'fast'; it must be a finite number above 0"),
        ({"lr": float("nan")}, "must be a finite number"),
        ({"lr": 0}, "'lr' in hparams is 0; it must be a finite number above 0"),
        ({"lr": True}, "must be a finite number"),
        ({"batch_size": 3.5}, "must be a whole number"),
        ({"batch_size": None}, "must be a whole number"),
        ({"router": "square"}, "must be one of 'default', 'linear', 'cosine'"),
        ({"capacity_ratio": 0}, "must be a finite number above 0, or one of 'default', 'dropless', null"),
        ({"num_experts": "six"}, "must be a whole number of at least 1, or 'default'"),
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
    with pytest.raises(UserError, match=r"hparams (is not valid JSON|must be a JSON object)"):
        parse_overrides(text)


def test_samples_are_keyed_like_upstream():
    state = np.random.RandomState(7)
    assert Hparam(0, lambda r: r.uniform(0, 1)).sample(state) == np.random.RandomState(7).uniform(0, 1)
