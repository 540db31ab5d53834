"""The three selection methods on examples small enough to choose by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from record_makers import make_record

from sfmoe_dg.results.record_arrays import blocks_of
from sfmoe_dg.results.record_lines import num_domains
from sfmoe_dg.results.selection import (
    SELECTION_METHODS,
    Choice,
    GroupKey,
    group_records,
    leave_one_domain_out,
    oracle,
    rank,
    select,
    training_domain_validation,
)

TRAINING, LEAVE_ONE_OUT, ORACLE = SELECTION_METHODS
NAN = float("nan")


def test_names_and_order_are_upstreams():
    assert [method.name for method in SELECTION_METHODS] == [
        "training-domain validation set",
        "leave-one-domain-out cross-validation",
        "test-domain validation set (oracle)",
    ]


def test_training_domain_takes_the_best_mean_out_accuracy():
    records = [
        # test domain 1; val = mean of the out accuracies of domains 0 and 2
        make_record(0, [(0.9, 0.2), (0.1, 0.9), (0.9, 0.4)], test_envs=[1]),  # (0.2 + 0.4) / 2 = 0.3
        make_record(300, [(0.9, 0.6), (0.2, 0.0), (0.9, 0.8)], test_envs=[1]),  # (0.6 + 0.8) / 2 = 0.7, the best
        make_record(600, [(0.9, 0.5), (0.3, 0.9), (0.9, 0.6)], test_envs=[1]),  # (0.5 + 0.6) / 2 = 0.55
    ]
    assert training_domain_validation(records, 1) == Choice(0.7, 0.2, 300)


def test_training_domain_takes_the_earliest_of_equal_steps():
    records = [
        make_record(0, [(0.1, 0.9), (0.0, 0.25)]),
        make_record(300, [(0.2, 0.1), (0.0, 0.5)]),
        make_record(600, [(0.3, 0.2), (0.0, 0.5)]),
    ]
    assert training_domain_validation(records, 0) == Choice(0.5, 0.2, 300)


def test_pairs_do_not_count_for_training_domain_and_oracle():
    pair = make_record(0, test_envs=[0, 1])
    assert training_domain_validation([pair], 0) is None
    assert oracle([pair], 0) is None
    single = make_record(0, [(0.1, 0.2), (0.3, 0.4)])
    assert training_domain_validation([pair, single], 0) == Choice(0.4, 0.1, 0)
    assert oracle([pair, single], 0) == Choice(0.2, 0.1, 0)


def test_oracle_takes_the_last_step_whatever_its_accuracy():
    records = [
        make_record(600, [(0.2, 0.1), (0.0, 0.0)]),
        make_record(0, [(0.8, 0.9), (0.0, 0.0)]),
        make_record(300, [(0.7, 0.8), (0.0, 0.0)]),
    ]
    assert oracle(records, 0) == Choice(0.1, 0.2, 600)


def leave_out_example(step, test_in, val_1_in, val_2_in):
    """The three records of one step for test domain 0 of 3: alone, with domain 1, with domain 2."""
    return [
        make_record(step, [(test_in, 0.0), (0.0, 0.0), (0.0, 0.0)], test_envs=[0]),
        make_record(step, [(0.0, 0.0), (val_1_in, 0.0), (0.0, 0.0)], test_envs=[0, 1]),
        make_record(step, [(0.0, 0.0), (0.0, 0.0), (val_2_in, 0.0)], test_envs=[0, 2]),
    ]


def test_leave_one_out_takes_the_mean_over_the_domains_left_out():
    records = [
        *leave_out_example(0, 0.1, 0.25, 0.5),  # (0.25 + 0.5) / 2 = 0.375
        *leave_out_example(300, 0.2, 0.5, 0.75),  # (0.5 + 0.75) / 2 = 0.625, the best
        *leave_out_example(600, 0.3, 0.75, 0.5),  # the same 0.625, later
    ]
    assert leave_one_domain_out(records, 0) == Choice(0.625, 0.2, 300)
    assert leave_one_domain_out(records[::-1], 0) == Choice(0.625, 0.2, 300)


def test_leave_one_out_finds_nothing_where_a_pair_is_missing():
    assert leave_one_domain_out(leave_out_example(0, 0.1, 0.2, 0.3)[:2], 0) is None
    assert leave_one_domain_out(leave_out_example(0, 0.1, 0.2, 0.3)[1:], 0) is None


def test_leave_one_out_skips_steps_that_are_incomplete_or_doubled():
    best_but_incomplete = leave_out_example(0, 0.9, 0.9, 0.9)[:2]
    best_but_doubled = [*leave_out_example(300, 0.9, 0.9, 0.9), make_record(300)]
    records = [*best_but_incomplete, *best_but_doubled, *leave_out_example(600, 0.3, 0.25, 0.25)]
    assert leave_one_domain_out(records, 0) == Choice(0.25, 0.3, 600)


def test_leave_one_out_skips_a_step_that_all_runs_have_twice():
    runs = zip(leave_out_example(0, 0.9, 0.9, 0.9), leave_out_example(300, 0.3, 0.25, 0.25), strict=True)
    records = [record for first, second in runs for record in (first, first, second)]
    assert leave_one_domain_out(records, 0) == Choice(0.25, 0.3, 300)


def test_leave_one_out_needs_more_than_one_domain():
    assert leave_one_domain_out([make_record(0, [(0.1, 0.2)])], 0) is None


def test_groups_hold_pairs_twice_and_keep_options_apart():
    records = [
        make_record(test_envs=[2, 1]),
        make_record(trial_seed=1, hparams_seed=5),
        make_record(trial_seed=1, hparams_seed=3),
        make_record() | {"options": {"split": "identity"}},
    ]
    groups = group_records(records)
    assert list(groups) == [
        GroupKey(0, "PACS", "ERM", 1),
        GroupKey(0, "PACS", "ERM", 2),
        GroupKey(0, "PACS [split=identity]", "ERM", 0),
        GroupKey(1, "PACS", "ERM", 0),
    ]
    assert groups[GroupKey(0, "PACS", "ERM", 1)] == groups[GroupKey(0, "PACS", "ERM", 2)] == {0: [records[0]]}
    assert list(groups[GroupKey(1, "PACS", "ERM", 0)]) == [3, 5]


def runs_with_validation(*val_accs):
    """A group of one-step runs of a two-domain data set: hparams_seed i has val_accs[i] and test accuracy i / 100."""
    records = [make_record(0, [(i / 100, 0.0), (0.0, acc)], hparams_seed=i) for i, acc in enumerate(val_accs)]
    return group_records(records)


KEY = GroupKey(0, "PACS", "ERM", 0)


@pytest.mark.parametrize(
    ("val_accs", "order"),
    [
        ((0.1, 0.3, 0.2), [1, 2, 0]),
        ((0.3, 0.3, 0.2), [1, 0, 2]),  # equal: the highest hparams_seed first
        ((0.3, 0.3, 0.3), [2, 1, 0]),
        ((NAN, 0.3, 0.2), [1, 2, 0]),  # NaN is the worst
        ((0.1, NAN, NAN), [0, 2, 1]),
        ((NAN, 0.0, NAN), [1, 2, 0]),
    ],
)
def test_rank_orders_by_validation_accuracy_then_seed(val_accs, order):
    groups = runs_with_validation(*val_accs)
    assert [ranked.hparams_seed for ranked in rank(groups[KEY], 0, TRAINING)] == order
    assert select(groups, TRAINING)[KEY].test_acc == order[0] / 100


def test_a_run_that_diverged_from_the_start_keeps_its_nan_and_loses():
    # Within a run nothing compares above a leading NaN, so it stays; among runs it is the worst.
    diverged = [make_record(0, [(0.9, 0.0), (0.0, NAN)]), make_record(300, [(0.8, 0.0), (0.0, 0.9)])]
    choice = training_domain_validation(diverged, 0)
    assert choice is not None
    assert (math.isnan(choice.val_acc), choice.step) == (True, 0)
    later = training_domain_validation(diverged[::-1], 0)
    assert later == Choice(0.9, 0.8, 300)
    other = make_record(0, [(0.5, 0.0), (0.0, 0.1)], hparams_seed=1)
    groups = group_records([*diverged, other])
    assert select(groups, TRAINING)[KEY].test_acc == 0.5


def test_select_leaves_out_groups_without_a_choice():
    groups = runs_with_validation(0.1)
    assert select(groups, LEAVE_ONE_OUT) == {}
    assert list(select(groups, ORACLE)) == [KEY]


accuracies = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])


@given(st.lists(st.tuples(accuracies, accuracies, accuracies), min_size=1, max_size=8))
def test_the_choice_is_the_highest_and_the_earliest(accs):
    records = [make_record(step, [(a, 0.0), (0.0, b), (0.0, c)]) for step, (a, b, c) in enumerate(accs)]
    choice = training_domain_validation(records, 0)
    means = [(b + c) / 2 for _, b, c in accs]
    assert choice == Choice(max(means), accs[means.index(max(means))][0], means.index(max(means)))
    assert num_domains(records[0]) == 3


# ----------------------------------------------------------------------------------- the rules again, record by record


def mean_out(record, test_env):
    accs = [record[f"env{i}_out_acc"] for i in range(num_domains(record)) if i != test_env]
    return float(np.mean(accs)) if accs else NAN


def highest(choices):
    """The first of the highest values, as Python's max returns it."""
    return max(choices, key=lambda choice: choice.val_acc, default=None)


def plain_training(records, env):
    alone = [r for r in records if len(r["args"]["test_envs"]) == 1]
    return highest([Choice(mean_out(r, env), r[f"env{env}_in_acc"], r["step"]) for r in alone])


def plain_oracle(records, env):
    alone = sorted((r for r in records if len(r["args"]["test_envs"]) == 1), key=lambda r: r["step"])
    return Choice(alone[-1][f"env{env}_out_acc"], alone[-1][f"env{env}_in_acc"], alone[-1]["step"]) if alone else None


def plain_leave_one_out(records, env):
    found = []
    for step in sorted({r["step"] for r in records}):
        here = [r for r in records if r["step"] == step]
        alone = [r for r in here if r["args"]["test_envs"] == [env]]
        accs = {}
        for record in here:
            for other in set(record["args"]["test_envs"]) - {env}:
                accs[other] = record[f"env{other}_in_acc"]
        others = [i for i in range(num_domains(here[0])) if i != env]
        if len(alone) == 1 and others and all(i in accs for i in others):
            val_acc = float(np.sum([accs[i] for i in others]) / len(others))
            found.append(Choice(val_acc, alone[0][f"env{env}_in_acc"], step))
    return highest(found)


@given(st.data(), st.integers(1, 11), st.integers(0, 2**32 - 1))
def test_choices_equal_the_rules_to_the_last_bit(data, domains, seed):
    """Up to eleven domains, since NumPy adds eight numbers and more in another order than fewer."""
    draw = np.random.default_rng(seed)
    env = int(draw.integers(domains))
    some_accs = data.draw(st.sampled_from([(0.25, 0.5, 0.75), (0.5, NAN), tuple(draw.random(50).tolist())]))

    def record(step, test_envs):
        pairs = [(float(draw.choice(some_accs)), float(draw.choice(some_accs))) for _ in range(domains)]
        return make_record(step, pairs, test_envs=test_envs)

    runs = [[env], *([env, other] if draw.random() < 0.5 else [other, env] for other in range(domains) if other != env)]
    records = [record(step, test_envs) for test_envs in runs for step in (0, 300, 600)]
    for _ in range(data.draw(st.sampled_from([0, 0, 1, 3]))):  # lost, doubled and moved
        records.pop(int(draw.integers(len(records))))
        records.insert(int(draw.integers(len(records) + 1)), record(int(draw.choice([0, 300, 900])), runs[0]))
    for method, plain in zip(SELECTION_METHODS, (plain_training, plain_leave_one_out, plain_oracle), strict=True):
        assert repr(as_numbers(method.choose(records, env))) == repr(as_numbers(plain(records, env)))
        assert repr(method.choose(blocks_of(records), env)) == repr(method.choose(records, env))


def as_numbers(choice):
    """NaN equals NaN where they are written."""
    return None if choice is None else tuple(map(float, choice))
