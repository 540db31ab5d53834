"""The numbers of records that selection and tables need, as arrays: a tenth of the memory of the records themselves.

R records of one run, T held-out domains, D domains.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from sfmoe_dg.results.record_lines import (
    Record,
    dataset_label,
    num_domains,
    numbers_of_alike,
    options_label,
    read_lines,
    table_names,
)

Floats = NDArray[np.float64]


class Facts(NamedTuple):
    """Which run a record is of, as far as tables tell runs apart."""

    dataset: str
    options: str
    label: str
    algorithm: str
    test_envs: tuple[int, ...]
    hparams_seed: int
    trial_seed: int

    @classmethod
    def of(cls, record: Record) -> Facts:
        args = record["args"]
        return cls(
            args["dataset"],
            options_label(record),
            dataset_label(record),
            args["algorithm"],
            tuple(args["test_envs"]),
            args["hparams_seed"],
            args["trial_seed"],
        )


@dataclass(frozen=True, eq=False)
class Block:
    """Records of one run that follow one another.

    ``values`` has a column for each of ``table_names``: [R, 1 + T], and with one held-out domain [R, 3 + D].
    """

    facts: Facts
    num_domains: int
    values: Floats

    @property
    def steps(self) -> Floats:
        return self.values[:, 0]

    def held_out_in(self, env: int) -> Floats:
        """``env{i}_in_acc`` of a domain that the run holds out, [R]."""
        return self.values[:, 1 + self.facts.test_envs.index(env)]

    @property
    def held_out_out(self) -> Floats:
        """``env{i}_out_acc`` of the domain that the run holds out alone, [R]."""
        assert self.alone
        return self.values[:, 2]

    @property
    def out(self) -> Floats:
        """``env{i}_out_acc`` of all domains, where one is held out alone, [R, D]."""
        assert self.alone
        return self.values[:, 3:]

    @cached_property  # asked for several times for every block and way of selection
    def alone(self) -> bool:
        """Whether one domain alone is held out."""
        return len(self.facts.test_envs) == 1


def blocks_of(records: Iterable[Record]) -> list[Block]:
    """Records, each of which ``read_lines`` would accept, in blocks of those that follow one another."""
    described = ((Facts.of(record), num_domains(record), record) for record in records)
    blocks = []
    for (facts, domains), group in groupby(described, key=lambda entry: entry[:2]):
        rows = [[float(record[name]) for name in table_names(record, facts.test_envs)] for _, _, record in group]
        blocks.append(Block(facts, domains, np.array(rows, dtype=np.float64)))
    return blocks


def as_blocks(entries: Sequence[Record] | Sequence[Block]) -> list[Block]:
    """Blocks as they are; records in blocks."""
    if entries and isinstance(entries[0], Block):
        return list(cast("Sequence[Block]", entries))
    return blocks_of(cast("Sequence[Record]", entries))


def read_blocks(data: bytes) -> tuple[list[Block], list[str]]:
    """The records of one results.jsonl, and what is wrong with its lines (``line 3 is not valid JSON``)."""
    alike = numbers_of_alike(data)
    if alike is not None:
        record, numbers = alike
        facts = Facts.of(record)
        width = len(table_names(record, facts.test_envs))
        return [Block(facts, num_domains(record), np.frombuffer(numbers).reshape(-1, width))], []
    records, faults = [], []
    for number, found in read_lines(data):
        if isinstance(found, str):
            faults.append(f"line {number} {found}")
        else:
            records.append(found)
    return blocks_of(records), faults
