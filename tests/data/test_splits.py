"""Splits: equal to DomainBed's, and invariants of every split."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfmoe_dg.data.domains import DomainDataset, InMemoryDomain
from sfmoe_dg.data.splits import check_batch_size, count_shared_identities, split_domains
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.seeds import seed_hash

# Printed by upstream's misc.split_dataset for sizes 10, 12, 9, trial_seed 3, test env 1, holdout .3, uda .4.
UPSTREAM = [
    ([1, 2, 5, 9, 4, 7, 6], [3, 0, 8], []),
    ([0, 7, 11, 9, 3, 6], [8, 2, 10], [4, 1, 5]),
    ([5, 1, 8, 3, 7, 0, 4], [6, 2], []),
]


def as_lists(splits):
    return [(s.in_.tolist(), s.out.tolist(), s.uda.tolist()) for s in splits]


def test_equals_upstream(make_dataset) -> None:
    splits = split_domains(make_dataset([10, 12, 9]), [1], trial_seed=3, holdout_fraction=0.3, uda_fraction=0.4)
    assert as_lists(splits) == UPSTREAM
    assert all(part.dtype == np.int64 for s in splits for part in (s.in_, s.out, s.uda))


def test_by_hand(make_dataset) -> None:
    """Domain 0 trains: the first int(5 · .4) = 2 shuffled keys are out. Domain 1 is tested: 2 of 5 out, then the other
    3 are shuffled once more by the same seed and int(3 · .5) = 1 of them goes to uda."""
    train, test = split_domains(make_dataset([5, 5]), [1], trial_seed=7, holdout_fraction=0.4, uda_fraction=0.5)
    keys = list(range(5))
    np.random.RandomState(seed_hash(7, 0)).shuffle(keys)
    assert as_lists([train]) == [(keys[2:], keys[:2], [])]
    keys, again = list(range(5)), list(range(3))
    np.random.RandomState(seed_hash(7, 1)).shuffle(keys)
    np.random.RandomState(seed_hash(7, 1)).shuffle(again)
    kept = keys[2:]
    assert as_lists([test]) == [([kept[again[1]], kept[again[2]]], keys[:2], [kept[again[0]]])]


def test_a_split_of_a_domain_does_not_depend_on_the_other_domains(make_dataset) -> None:
    alone = split_domains(make_dataset([30, 40]), [1], trial_seed=1)
    more = split_domains(make_dataset([30, 99, 11]), [1], trial_seed=1)
    assert as_lists(alone)[0] == as_lists(more)[0]


def objects(sizes, num_identities, seed):
    """In-memory domains that show some of the same objects, some several times."""
    random = np.random.RandomState(seed)
    domains = tuple(
        InMemoryDomain(
            str(env), torch.zeros(n, 1, 1, 1, dtype=torch.uint8), np.zeros(n), random.randint(0, num_identities, n) * 7
        )
        for env, n in enumerate(sizes)
    )
    return DomainDataset("Objects", domains, (1, 1, 1), ("one",), tuple("abcdefgh"[: len(sizes)]))


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(300, 400), min_size=2, max_size=4),
    num_test=st.integers(0, 3),
    num_identities=st.integers(30, 60),
    trial_seed=st.integers(0, 10**6),
    uda=st.sampled_from([0.0, 0.5]),
    policy=st.sampled_from(["random", "identity"]),
)
def test_parts_are_disjoint_and_identities_stay_on_one_side(
    sizes, num_test, num_identities, trial_seed, uda, policy
) -> None:
    dataset = objects(sizes, num_identities, trial_seed % 1000)
    test_envs = list(range(min(num_test, len(sizes) - 1)))
    splits = split_domains(
        dataset, test_envs, trial_seed=trial_seed, holdout_fraction=0.3, uda_fraction=uda, policy=policy
    )
    sides = {"train": set(), "validation": set(), "test": set(), "oracle": set(), "uda": set()}
    for env, (domain, split) in enumerate(zip(dataset, splits, strict=True)):
        used = np.concatenate([split.in_, split.out, split.uda])
        assert len(np.unique(used)) == len(used), "an image is in two parts"
        assert np.array_equal(split.used, np.sort(used))
        if policy == "random":
            assert np.array_equal(split.used, np.arange(len(domain)))
            assert len(split.out) == int(len(domain) * 0.3)
        names = ("test", "oracle", "uda") if env in test_envs else ("train", "validation", "uda")
        for name, part in zip(names, (split.in_, split.out, split.uda), strict=True):
            sides[name].update(domain.identities[part].tolist())
    if policy == "identity":
        groups = list(sides.values())
        assert sum(map(len, groups)) == len(set().union(*groups)), "an object is on two sides"
        assert count_shared_identities(dataset, splits, test_envs) == 0


def test_identity_split_by_hand(make_dataset) -> None:
    """Ten objects, each shown once in both domains. Of the shuffled ten, int(10 · .3) = 3 are held out, the next 3
    validate, 4 train. Of the three held out, int(3 · .3) = 0 would be the oracle's, so .4: 4, 4, 2 and int(1.6) = 1."""
    identities = [np.arange(10), np.arange(10)[::-1]]
    train, test = split_domains(
        make_dataset([10, 10], identities), [1], trial_seed=5, holdout_fraction=0.4, policy="identity"
    )
    order = list(range(10))
    np.random.RandomState(seed_hash(5, "identity")).shuffle(order)
    assert as_lists([train]) == [(order[8:], order[4:8], [])]
    mirrored = [9 - identity for identity in order]
    assert as_lists([test]) == [(mirrored[1:4], mirrored[:1], [])]


def test_given_test_identities_are_the_held_out_ones(make_dataset) -> None:
    dataset = make_dataset([20, 20], [np.arange(20)] * 2, test_identities=np.arange(10))
    train, test = split_domains(dataset, [1], holdout_fraction=0.2, policy="identity")
    assert sorted(np.concatenate([test.in_, test.out])) == list(range(10))
    assert (len(test.in_), len(test.out), len(train.in_), len(train.out)) == (8, 2, 8, 2)


def test_random_split_shares_identities_and_says_how_many(make_dataset) -> None:
    dataset = make_dataset([100, 100], [np.arange(100)] * 2)
    shared = count_shared_identities(dataset, split_domains(dataset, [0]), [0])
    assert shared is not None
    assert 50 < shared < 80  # 0.8 · 0.8 of 100 in expectation
    assert count_shared_identities(make_dataset([5, 5]), split_domains(make_dataset([5, 5]), [0]), [0]) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"test_envs": [3]}, "test domain 3 of Made does not exist; the domains are 0 domain0, 1 domain1, 2 domain2"),
        ({"test_envs": [-1]}, "test domain -1 of Made does not exist"),
        ({"test_envs": [1, 1]}, "test domain 1 of Made is given twice"),
        ({"test_envs": [0, 1, 2]}, "all 3 domains of Made are test domains"),
        ({"holdout_fraction": 1.0}, "holdout_fraction is 1.0; it must be at least 0 and below 1"),
        ({"holdout_fraction": -0.1}, "holdout_fraction is -0.1"),
        ({"holdout_fraction": float("nan")}, "holdout_fraction is nan"),
        ({"uda_fraction": 1.0}, "uda_holdout_fraction is 1.0"),
        ({"policy": "stratified"}, "split policy 'stratified' is unknown; allowed: random, identity"),
        ({"policy": "identity"}, "needs to know which images show the same object, which Made does not tell"),
        ({"holdout_fraction": 0.01}, r"the out-split of domain 0 \(domain0\) of Made is empty, of 10 images"),
        ({"uda_fraction": 0.01}, r"the uda-split of domain 0 \(domain0\) of Made is empty"),
    ],
)
def test_bad_requests(make_dataset, arguments, message) -> None:
    with pytest.raises(UserError, match=message):
        split_domains(make_dataset([10, 10, 10]), **({"test_envs": [0]} | arguments))


def test_no_holdout_leaves_out_empty_by_request(make_dataset) -> None:
    assert [len(s.out) for s in split_domains(make_dataset([4, 4]), [0], holdout_fraction=0.0)] == [0, 0]


def test_domain_smaller_than_a_batch(make_dataset) -> None:
    dataset = make_dataset([100, 10])
    splits = split_domains(dataset, [0])
    check_batch_size(dataset, splits, [1], 8)
    with pytest.raises(UserError, match=r"domain 1 \(domain1\) of Made has 8 images to train on, fewer than the batch"):
        check_batch_size(dataset, splits, [1], 9)
