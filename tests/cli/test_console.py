"""The lines that the terminal shows before a run begins."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sfmoe_dg.cli.console import describe_run
from sfmoe_dg.data.domains import DomainDataset, InMemoryDomain
from sfmoe_dg.data.splits import DomainSplit
from sfmoe_dg.runs.spec import RunSpec


def described(identities: np.ndarray | None = None, ignored: tuple[str, ...] = ()) -> list[str]:
    """A run that trains on images 0 to 3 of the domain ink and tests on 2 to 4 of the domain neon."""
    domains = tuple(InMemoryDomain(name, torch.zeros(5, 1, 2, 2), [0] * 5, identities) for name in ("ink", "neon"))
    none = np.array([], dtype=np.int64)
    setup = SimpleNamespace(
        spec=RunSpec("Debug28", "ERM", (1,)),
        device="cpu",
        execution=SimpleNamespace(world=SimpleNamespace(shared=False)),
        num_parameters=1,
        hparams={"lr": 0.1},
        dataset=DomainDataset("Made", domains, (1, 2, 2), ("only",), ("ink", "neon"), ignored=ignored),
        splits=[DomainSplit(np.arange(4), np.array([4]), none), DomainSplit(np.arange(2, 5), np.array([0, 1]), none)],
    )
    return describe_run(setup)  # type: ignore[arg-type]


def test_objects_on_both_sides_are_counted():
    line = "2 objects are trained on in one domain and tested on in another (see --split identity)"
    assert line in described(np.array([7, 8, 9, 10, 11]))
    assert not [line for line in described() if "objects" in line]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("a/notes.txt",), "1 files are no images by their ending: a/notes.txt"),
        (tuple("abcde"), "5 files are no images by their ending: a, b, c, …"),
    ],
)
def test_files_that_are_no_images_are_named(names, said):
    assert said in described(ignored=names)
    assert not [line for line in described() if "by their ending" in line]
