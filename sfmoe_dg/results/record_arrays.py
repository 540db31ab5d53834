"""The numbers that selection and tables need, as arrays; they take a tenth of the memory of the records.

Legend: R records of one run, T held-out domains, D domains.
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


class RunKey(NamedTuple):
    """What identifies a run in tables. ``label`` is the data set with its options, as tables name it."""

    dataset: str
    options: str
    label: str
    algorithm: str
    test_envs: tuple[int, ...]
    hparams_seed: int
    trial_seed: int

    @classmethod
    def of(cls, record: Record) -> RunKey:
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
    """Consecutive records of one run.

    ``values`` has one column per name of ``table_names``: [R, 1 + T], and with one held-out domain [R, 3 + D].
    """

    run: RunKey
    num_domains: int
    values: Floats

    @property
    def steps(self) -> Floats:
        return self.values[:, 0]

    def held_out_in(self, env: int) -> Floats:
        """``env{i}_in_acc`` of a held-out domain, [R]."""
        return self.values[:, 1 + self.run.test_envs.index(env)]

    @property
    def held_out_out(self) -> Floats:
        """``env{i}_out_acc`` of the only held-out domain, [R]."""
        assert self.alone
        return self.values[:, 2]

    @property
    def out(self) -> Floats:
        """``env{i}_out_acc`` of all domains, for a run that holds out exactly one, [R, D]."""
        assert self.alone
        return self.values[:, 3:]

    @cached_property  # every selection method asks several times
    def alone(self) -> bool:
        """Whether the run holds out exactly one domain."""
        return len(self.run.test_envs) == 1


def blocks_of(records: Iterable[Record]) -> list[Block]:
    """Records in blocks: consecutive records of one run make one block. ``read_lines`` must accept every record."""
    described = ((RunKey.of(record), num_domains(record), record) for record in records)
    blocks = []
    for (run, domains), group in groupby(described, key=lambda entry: entry[:2]):
        rows = [[float(record[name]) for name in table_names(record, run.test_envs)] for _, _, record in group]
        blocks.append(Block(run, domains, np.array(rows, dtype=np.float64)))
    return blocks


def as_blocks(entries: Sequence[Record] | Sequence[Block]) -> list[Block]:
    """Blocks unchanged, or records converted to blocks."""
    if entries and isinstance(entries[0], Block):
        return list(cast("Sequence[Block]", entries))
    return blocks_of(cast("Sequence[Record]", entries))


def read_blocks(data: bytes) -> tuple[list[Block], list[str]]:
    """The records of one results.jsonl, and what is wrong with its lines (``line 3 is not valid JSON``)."""
    alike = numbers_of_alike(data)
    if alike is not None:
        first, numbers = alike
        run = RunKey.of(first)
        width = len(table_names(first, run.test_envs))
        return [Block(run, num_domains(first), np.frombuffer(numbers).reshape(-1, width))], []
    records, faults = [], []
    for number, record in read_lines(data):
        if isinstance(record, str):
            faults.append(f"line {number} {record}")
        else:
            records.append(record)
    return blocks_of(records), faults
