"""DomainBed's three ways to choose a run and a step without looking at what is reported.

Source: DomainBed, ``model_selection``; results equal its own to the last bit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sfmoe_dg.records import Record, dataset_label


class GroupKey(NamedTuple):
    """What one number of a sweep stands for; the best hparams_seed of a group is chosen."""

    trial_seed: int
    dataset: str
    algorithm: str
    test_env: int


Group = dict[int, list[Record]]
"""The records of a group by hparams_seed, in the order they were read."""


class Choice(NamedTuple):
    """The step chosen within one hparams_seed: its validation accuracy and the accuracy to report."""

    val_acc: float
    test_acc: float
    step: int


class Ranked(NamedTuple):
    choice: Choice
    hparams_seed: int
    records: list[Record]


@dataclass(frozen=True)
class SelectionMethod:
    """``choose(records, test_env)`` takes all records of one hparams_seed of a group, single-domain and two-domain,
    and returns the step it selects, or None where the runs it needs are missing."""

    name: str
    choose: Callable[[Sequence[Record], int], Choice | None]


def group_records(records: Iterable[Record]) -> dict[GroupKey, Group]:
    """Records by group and hparams_seed in one pass, sorted; a two-domain record belongs to both of its groups.

    Source: DomainBed, ``lib.reporting.get_grouped_records``, whose order is that of the disk.
    """
    groups: dict[GroupKey, Group] = defaultdict(lambda: defaultdict(list))
    for record in records:
        args = record["args"]
        label = dataset_label(record)
        for test_env in args["test_envs"]:
            key = GroupKey(args["trial_seed"], label, args["algorithm"], test_env)
            groups[key][args["hparams_seed"]].append(record)
    return {key: dict(sorted(groups[key].items())) for key in sorted(groups)}


def rank(group: Group, test_env: int, method: SelectionMethod) -> list[Ranked]:
    """The hparams_seeds of a group from best to worst validation accuracy; those without a choice are left out.

    Among equals the highest hparams_seed comes first; an accuracy that is not a number counts as the worst.

    Source: DomainBed, ``SelectionMethod.hparams_accs``: a stable ascending sort, read backwards.
    """
    found = []
    for hparams_seed in sorted(group):
        choice = method.choose(group[hparams_seed], test_env)
        if choice is not None:
            found.append(Ranked(choice, hparams_seed, group[hparams_seed]))
    found.sort(key=lambda ranked: -np.inf if np.isnan(ranked.choice.val_acc) else ranked.choice.val_acc)
    return found[::-1]


def select(groups: Mapping[GroupKey, Group], method: SelectionMethod) -> dict[GroupKey, Choice]:
    """The choice that each group reports; groups for which the method finds nothing are left out."""
    ranked = ((key, rank(group, key.test_env, method)) for key, group in groups.items())
    return {key: best[0].choice for key, best in ranked if best}


def _single_domain(records: Iterable[Record]) -> list[Record]:
    return [record for record in records if len(record["args"]["test_envs"]) == 1]


def _best(choices: Iterable[Choice]) -> Choice | None:
    """The first of the highest: the earliest step. A leading NaN stays, since nothing compares above it."""
    return max(choices, key=lambda choice: choice.val_acc, default=None)


def num_domains(record: Record) -> int:
    """How many domains a record has accuracies of."""
    count = 0
    while f"env{count}_out_acc" in record:
        count += 1
    return count


def training_domain_validation(records: Sequence[Record], test_env: int) -> Choice | None:
    """The step with the highest mean ``env{i}_out_acc`` over the training domains.

    Reports ``env{test}_in_acc``. None if there is no run with this test domain alone.

    Source: DomainBed, ``IIDAccuracySelectionMethod``.
    """

    def at_step(record: Record) -> Choice:
        accs = [record[f"env{i}_out_acc"] for i in range(num_domains(record)) if i != test_env]
        val_acc = float(np.mean(accs)) if accs else float("nan")
        return Choice(val_acc, record[f"env{test_env}_in_acc"], record["step"])

    return _best(at_step(record) for record in _single_domain(records))


def leave_one_domain_out(records: Sequence[Record], test_env: int) -> Choice | None:
    """The step with the highest accuracy on domains left out in turn.

    The validation accuracy of a step is the mean of ``env{val}_in_acc`` over the runs that hold out the test domain
    and ``val``, one for every other domain. A step where one of them, or the run that holds out the test domain
    alone, is missing, or where the latter comes twice, is not considered. None if no step is left.

    Source: DomainBed, ``LeaveOneOutSelectionMethod``.
    """
    by_step: dict[int, list[Record]] = defaultdict(list)
    for record in records:
        by_step[record["step"]].append(record)
    choices = (_left_out(by_step[step], test_env) for step in sorted(by_step))
    return _best(choice for choice in choices if choice is not None)


def _left_out(records: Sequence[Record], test_env: int) -> Choice | None:
    alone = _single_domain(records)
    if len(alone) != 1:
        return None
    accs: dict[int, float] = {}
    for record in records:
        held_out = set(record["args"]["test_envs"])
        if len(record["args"]["test_envs"]) == 2 and len(held_out) == 2:
            (val_env,) = held_out - {test_env}
            accs[val_env] = record[f"env{val_env}_in_acc"]
    others = [env for env in range(num_domains(records[0])) if env != test_env]
    if not others or not all(env in accs for env in others):
        return None
    val_acc = float(np.sum([accs[env] for env in others]) / len(others))
    return Choice(val_acc, alone[0][f"env{test_env}_in_acc"], alone[0]["step"])


def oracle(records: Sequence[Record], test_env: int) -> Choice | None:
    """The last step, valued by ``env{test}_out_acc``: no early stopping, but it looks at the test domain.

    Reports ``env{test}_in_acc``. None if there is no run with this test domain alone.

    Source: DomainBed, ``OracleSelectionMethod``.
    """
    alone = _single_domain(records)
    if not alone:
        return None
    # Reversed, so that of two records of one step the one read last counts, as upstream's sort leaves it.
    last = max(reversed(alone), key=lambda record: record["step"])
    return Choice(last[f"env{test_env}_out_acc"], last[f"env{test_env}_in_acc"], last["step"])


SELECTION_METHODS = (
    SelectionMethod("training-domain validation set", training_domain_validation),
    SelectionMethod("leave-one-domain-out cross-validation", leave_one_domain_out),
    SelectionMethod("test-domain validation set (oracle)", oracle),
)
