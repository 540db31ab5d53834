"""DomainBed's three methods of model selection: which hyper-parameters and which step a table reports.

Source: DomainBed, ``model_selection``; results equal its own to the last bit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, TypeVar

import numpy as np

from sfmoe_dg.results.record_arrays import Block, Floats, RunKey, as_blocks
from sfmoe_dg.results.record_lines import Record


class GroupKey(NamedTuple):
    """The runs that one accuracy of a table is chosen from: they differ in hparams_seed, and the best one is chosen."""

    trial_seed: int
    dataset: str
    algorithm: str
    test_env: int


Records = Sequence[Record] | Sequence[Block]
"""Records, or their numbers in blocks; selection gives the same result for both."""

Group = Mapping[int, Records]
"""The records of a group by hparams_seed, in the order they were read."""

Entry = TypeVar("Entry", Record, Block)


class Choice(NamedTuple):
    """The step chosen within one hparams_seed: its validation accuracy and the accuracy to report."""

    val_acc: float
    test_acc: float
    step: float


class Ranked(NamedTuple):
    choice: Choice
    hparams_seed: int


@dataclass(frozen=True)
class SelectionMethod:
    """``choose(records, test_env)`` takes all records of one hparams_seed of a group, single-domain and two-domain,
    and returns the step it selects, or None where the runs it needs are missing."""

    name: str
    choose: Callable[[Records, int], Choice | None]


def group_records(records: Iterable[Record]) -> dict[GroupKey, dict[int, list[Record]]]:
    """Records by group and hparams_seed in one pass, sorted; a two-domain record belongs to both of its groups.

    Source: DomainBed, ``lib.reporting.get_grouped_records``, whose order is that of the disk.

    Examples:
        >>> from sfmoe_dg import group_records, load_records
        >>> groups = group_records(load_records("results").records)
        >>> [(key.algorithm, key.test_env, list(group)) for key, group in groups.items()]
        [('SFMoE', 3, [0])]
    """
    return _grouped((RunKey.of(record), record) for record in records)


def group_blocks(blocks: Iterable[Block]) -> dict[GroupKey, dict[int, list[Block]]]:
    """As :func:`group_records`, for blocks."""
    return _grouped((block.run, block) for block in blocks)


def _grouped(entries: Iterable[tuple[RunKey, Entry]]) -> dict[GroupKey, dict[int, list[Entry]]]:
    groups: dict[GroupKey, dict[int, list[Entry]]] = defaultdict(lambda: defaultdict(list))
    for run, entry in entries:
        for test_env in run.test_envs:
            key = GroupKey(run.trial_seed, run.label, run.algorithm, test_env)
            groups[key][run.hparams_seed].append(entry)
    return {key: dict(sorted(groups[key].items())) for key in sorted(groups)}


def rank(group: Group, test_env: int, method: SelectionMethod) -> list[Ranked]:
    """The hparams_seeds of a group from best to worst validation accuracy; those without a choice are left out.

    Among equals the highest hparams_seed comes first; an accuracy that is not a number counts as the worst.

    Source: DomainBed, ``SelectionMethod.hparams_accs``: a stable ascending sort, read backwards.
    """
    ascending = []
    for hparams_seed in sorted(group):
        choice = method.choose(group[hparams_seed], test_env)
        if choice is not None:
            ascending.append(Ranked(choice, hparams_seed))
    ascending.sort(key=lambda ranked: -np.inf if np.isnan(ranked.choice.val_acc) else ranked.choice.val_acc)
    return ascending[::-1]


def select(groups: Mapping[GroupKey, Group], method: SelectionMethod) -> dict[GroupKey, Choice]:
    """The choice that each group reports; groups for which the method finds nothing are left out.

    Examples:
        >>> from sfmoe_dg import SELECTION_METHODS, group_records, load_records, select
        >>> groups = group_records(load_records("results").records)
        >>> chosen = select(groups, SELECTION_METHODS[0])
        >>> [(key.algorithm, key.test_env, choice.step in (0, 9)) for key, choice in chosen.items()]
        [('SFMoE', 3, True)]
    """
    ranked = ((key, rank(group, key.test_env, method)) for key, group in groups.items())
    return {key: best[0].choice for key, best in ranked if best}


def _best(val_accs: Floats, test_accs: Floats, steps: Floats) -> Choice:
    """The step with the highest validation accuracy, the first of equals. If the first is NaN it is chosen, because no
    comparison with NaN is true."""
    return _choice(_first_highest(val_accs), val_accs, test_accs, steps)


def _first_highest(values: Floats) -> int:
    first = int(values.argmax())  # the first NaN, if there is one
    if first == 0 or not np.isnan(values[first]):
        return first
    return 0 if np.isnan(values[0]) else int(np.nanargmax(values))


def _choice(place: int, val_accs: Floats, test_accs: Floats, steps: Floats) -> Choice:
    return Choice(float(val_accs[place]), float(test_accs[place]), float(steps[place]))


def _row_sums(values: Floats) -> Floats:
    """[R, N] to [R]. Rows are made contiguous: NumPy then adds each as it would add the row alone, bit for bit."""
    return np.add.reduce(np.ascontiguousarray(values), axis=1)


def training_domain_validation(records: Records, test_env: int) -> Choice | None:
    """The step with the highest mean ``env{i}_out_acc`` over the training domains.

    Reports ``env{test}_in_acc``. None if there is no run with this test domain alone.

    Source: DomainBed, ``IIDAccuracySelectionMethod``.
    """
    alone = [block for block in as_blocks(records) if block.alone]
    if not alone:
        return None
    val_accs = _joined([_validation(block, test_env) for block in alone])
    return _best(val_accs, *_test_accs_and_steps(alone, test_env))


def _validation(block: Block, test_env: int) -> Floats:
    others = [env for env in range(block.num_domains) if env != test_env]
    if not others:
        return np.full(len(block.values), np.nan)
    return _row_sums(block.out[:, others]) / len(others)


def _test_accs_and_steps(alone: Sequence[Block], test_env: int) -> tuple[Floats, Floats]:
    return _joined([block.held_out_in(test_env) for block in alone]), _joined([block.steps for block in alone])


def _joined(parts: Sequence[Floats]) -> Floats:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def leave_one_domain_out(records: Records, test_env: int) -> Choice | None:
    """The step with the highest accuracy on domains left out in turn.

    The validation accuracy of a step is the mean of ``env{val}_in_acc`` over the runs that hold out the test domain
    and ``val``, one for every other domain. A step where one of them, or the run that holds out the test domain
    alone, is missing, or where the latter comes twice, is not considered. None if no step is left.

    Source: DomainBed, ``LeaveOneOutSelectionMethod``.
    """
    blocks = as_blocks(records)
    if blocks and _side_by_side(blocks):
        return _left_out(blocks, test_env)
    by_step: dict[float, list[Block]] = defaultdict(list)
    for block in blocks:
        for step, row in zip(block.steps.tolist(), block.values, strict=True):
            by_step[step].append(Block(block.run, block.num_domains, row[None]))
    choices = [choice for step in sorted(by_step) if (choice := _left_out(by_step[step], test_env)) is not None]
    return max(choices, key=lambda choice: choice.val_acc, default=None)


def _side_by_side(blocks: Sequence[Block]) -> bool:
    """Whether all blocks have the same steps, ascending and each once, so that rows of different runs match."""
    first = blocks[0]
    steps = first.steps.tolist()  # comparing short lists is quicker than comparing short arrays
    return all(a < b for a, b in pairwise(steps)) and all(
        block.num_domains == first.num_domains and block.steps.tolist() == steps for block in blocks[1:]
    )


def _left_out(blocks: Sequence[Block], test_env: int) -> Choice | None:
    """The best step of blocks that all have the same steps; None if a run is missing or comes twice."""
    alone = [block for block in blocks if block.alone]
    if len(alone) != 1:
        return None
    accs: dict[int, Floats] = {}
    for block in blocks:
        held_out = set(block.run.test_envs)
        if len(block.run.test_envs) == 2 and len(held_out) == 2:
            (val_env,) = held_out - {test_env}
            accs[val_env] = block.held_out_in(val_env)
    others = [env for env in range(blocks[0].num_domains) if env != test_env]
    if not others or not all(env in accs for env in others):
        return None
    val_accs = _row_sums(np.stack([accs[env] for env in others], axis=1)) / len(others)
    return _best(val_accs, *_test_accs_and_steps(alone, test_env))


def oracle(records: Records, test_env: int) -> Choice | None:
    """The last step, with ``env{test}_out_acc`` as validation accuracy: no early stopping, but it uses the test domain.

    Reports ``env{test}_in_acc``. None if there is no run with this test domain alone.

    Source: DomainBed, ``OracleSelectionMethod``.
    """
    alone = [block for block in as_blocks(records) if block.alone]
    if not alone:
        return None
    test_accs, steps = _test_accs_and_steps(alone, test_env)
    val_accs = _joined([block.held_out_out for block in alone])
    # From the end, so that of two records of one step the one read last counts, as in upstream's sort.
    last = len(steps) - 1 - _first_highest(steps[::-1])
    return _choice(last, val_accs, test_accs, steps)


SELECTION_METHODS = (
    SelectionMethod("training-domain validation set", training_domain_validation),
    SelectionMethod("leave-one-domain-out cross-validation", leave_one_domain_out),
    SelectionMethod("test-domain validation set (oracle)", oracle),
)
"""DomainBed's methods, in its order.

Examples:
    >>> from sfmoe_dg import SELECTION_METHODS
    >>> for method in SELECTION_METHODS:
    ...     print(method.name)
    training-domain validation set
    leave-one-domain-out cross-validation
    test-domain validation set (oracle)
"""
