"""From records to tables: the numbers of DomainBed's ``collect_results``, before anything is formatted.

Accuracies are percentages. ``formats`` and ``page`` write the tables as text, LaTeX, Markdown, CSV and HTML.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from sfmoe_dg.data.catalog import CATALOG, DatasetFacts
from sfmoe_dg.results.read import LoadedRecords
from sfmoe_dg.results.read_many import LoadedRuns
from sfmoe_dg.results.record_arrays import Block, RunKey
from sfmoe_dg.results.selection import SELECTION_METHODS, Choice, Group, GroupKey, SelectionMethod, group_blocks, select

# fmt: off
DOMAINBED_ALGORITHMS = (
    "ERM", "ERMPlusPlus", "Fish", "IRM", "GroupDRO", "Mixup", "MLDG", "CORAL", "MMD", "DANN", "CDANN", "MTL", "SagNet",
    "ARM", "VREx", "RSC", "SD", "ANDMask", "SANDMask", "IGA", "SelfReg", "Fishr", "TRM", "IB_ERM", "IB_IRM", "CAD",
    "CondCAD", "Transfer", "CausIRL_CORAL", "CausIRL_MMD", "EQRM", "RDM", "ADRMX", "URM",
)
# fmt: on
"""The first rows of every table, in DomainBed's order; other algorithms follow in alphabetical order."""

Labels = Mapping[str, Sequence[str]]
"""Column titles of the data sets whose domains are known beforehand, in the order in which their tables appear."""


@dataclass(frozen=True)
class Cell:
    """Mean and standard error over ``n`` trials, in percent."""

    mean: float
    stderr: float
    n: int


@dataclass(frozen=True)
class Row:
    """One algorithm: a cell per column, None where runs are missing; ``average`` is None if any is."""

    algorithm: str
    cells: tuple[Cell | None, ...]

    @property
    def average(self) -> float | None:
        means = [cell.mean for cell in self.cells if cell is not None]
        if len(means) < len(self.cells) or not means:
            return None
        # Added from left to right as upstream's NumPy floats are: Python's own sum compensates since 3.12.
        return reduce(operator.add, means) / len(means)


@dataclass(frozen=True)
class Table:
    """One table of one selection method.

    Attributes:
        name: the data set's label (``dataset_label``), or "Averages" with the options.
        method: name of the selection method.
        options: of the runs (``options_label``); ``''`` for runs that behave as DomainBed's.
        foreign: DomainBed could not print this table: it does not know the data set, or the runs have options.
    """

    name: str
    method: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    options: str = ""
    is_averages: bool = False
    foreign: bool = False

    @property
    def title(self) -> str:
        return self.name if self.is_averages else f"Dataset: {self.name}"


def catalog_labels() -> dict[str, tuple[str, ...]]:
    """The column titles of the catalog's own data sets, in its order.

    Data sets of other packages are left out, so that the same records give the same tables on every machine.
    """
    known = CATALOG.registered.items()
    return {name: facts.labels for name, facts in known if isinstance(facts, DatasetFacts) and facts.labels}


@dataclass(frozen=True)
class _Variant:
    """The data sets and algorithms of the runs with the same options; averages never mix options."""

    options: str
    datasets: dict[str, str]  # label -> name
    algorithms: list[str]


def build_tables(loaded: LoadedRecords | LoadedRuns, labels: Labels | None = None) -> dict[str, list[Table]]:
    """The tables of every selection method, by its name: one per data set, then their averages.

    Runs with options (``dataset_label``) follow with tables and averages of their own. A data set without known
    labels gets those of its runs' ``run.json``, or ``env0``, ``env1``, ….

    Source: DomainBed, ``scripts.collect_results``. Upstream leaves out data sets it does not know; here they follow
    the known ones in alphabetical order.

    Examples:
        >>> from sfmoe_dg import build_tables, load_records
        >>> tables = build_tables(load_records("results"))
        >>> table = tables["training-domain validation set"][0]
        >>> table.columns
        ('chalk', 'ink', 'mosaic', 'neon')
        >>> [(row.algorithm, [cell is not None for cell in row.cells]) for row in table.rows]  # None: no run yet
        [('SFMoE', [False, False, False, True])]
    """
    labels = catalog_labels() if labels is None else labels
    blocks = loaded.blocks
    groups = group_blocks(blocks)
    columns = _columns(groups, loaded.domains, labels)
    variants = _variants({block.run for block in blocks}, labels)
    return {method.name: _method_tables(method, groups, variants, columns, labels) for method in SELECTION_METHODS}


def _variants(runs: Iterable[RunKey], labels: Labels) -> list[_Variant]:
    datasets: dict[str, dict[str, str]] = defaultdict(dict)
    algorithms: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        datasets[run.options][run.label] = run.dataset
        algorithms[run.options].add(run.algorithm)
    known = {name: place for place, name in enumerate(labels)}
    variants = []
    for options in sorted(datasets):
        ordered = sorted(datasets[options].items(), key=lambda item: (known.get(item[1], len(known)), item[1]))
        variants.append(_Variant(options, dict(ordered), _ordered_algorithms(algorithms[options])))
    return variants


def _ordered_algorithms(names: set[str]) -> list[str]:
    return [name for name in DOMAINBED_ALGORITHMS if name in names] + sorted(names.difference(DOMAINBED_ALGORITHMS))


def _columns(
    groups: Mapping[GroupKey, Mapping[int, Sequence[Block]]], domains: Mapping[str, tuple[str, ...]], labels: Labels
) -> dict[str, tuple[str, ...]]:
    """The column titles of every data set label in the records."""
    columns: dict[str, tuple[str, ...]] = {}
    for key, group in groups.items():
        block = next(iter(group.values()))[0]
        name = block.run.dataset
        if labels.get(name):
            columns[key.dataset] = tuple(labels[name])
            continue
        given = domains.get(name, ())
        so_far = columns.get(key.dataset, given)
        columns[key.dataset] = so_far + tuple(f"env{i}" for i in range(len(so_far), block.num_domains))
    return columns


def _method_tables(
    method: SelectionMethod,
    groups: Mapping[GroupKey, Group],
    variants: Iterable[_Variant],
    columns: Mapping[str, tuple[str, ...]],
    labels: Labels,
) -> list[Table]:
    scores = _scores(select(groups, method))
    tables = []
    for variant in variants:
        foreign = {label: bool(variant.options) or name not in labels for label, name in variant.datasets.items()}
        for label in variant.datasets:
            rows = tuple(
                Row(algorithm, _domain_cells(scores[label, algorithm], len(columns[label])))
                for algorithm in variant.algorithms
            )
            tables.append(Table(label, method.name, columns[label], rows, variant.options, foreign=foreign[label]))
        averages = tuple(
            Row(algorithm, tuple(_average_cell(scores[label, algorithm]) for label in variant.datasets))
            for algorithm in variant.algorithms
        )
        name = f"Averages {variant.options}".strip()
        names = tuple(variant.datasets.values())
        any_foreign = any(foreign.values())
        tables.append(Table(name, method.name, names, averages, variant.options, is_averages=True, foreign=any_foreign))
    return tables


Scores = dict[int, dict[int, float]]
"""Accuracies by trial_seed and test domain."""


def _scores(choices: Mapping[GroupKey, Choice]) -> dict[tuple[str, str], Scores]:
    scores: dict[tuple[str, str], Scores] = defaultdict(lambda: defaultdict(dict))
    for key in sorted(choices):
        scores[key.dataset, key.algorithm][key.trial_seed][key.test_env] = choices[key].test_acc
    return scores


def _domain_cells(scores: Scores, num_columns: int) -> tuple[Cell | None, ...]:
    return tuple(
        _cell([trial[test_env] for trial in scores.values() if test_env in trial]) for test_env in range(num_columns)
    )


def _average_cell(scores: Scores) -> Cell | None:
    """Mean and standard error over trials of each trial's mean over the domains that it has."""
    return _cell([float(np.mean(list(trial.values()))) for trial in scores.values()])


def _cell(values: Sequence[float]) -> Cell | None:
    if not values:
        return None
    stderr = np.std(np.asarray(values) / np.sqrt(len(values)))
    return Cell(float(100 * np.mean(values)), float(100 * stderr), len(values))
