"""Fixtures of the data tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # for image_trees.py and its like: the test folders are not packages

from cub_trees import options, write_cub, write_styles
from image_trees import write_tree

from sfmoe_dg.data.build import build_dataset
from sfmoe_dg.data.cub_dg.build import BuildReport, build
from sfmoe_dg.data.domains import DomainDataset, InMemoryDomain


@pytest.fixture(scope="session")
def tiny_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three domains, two classes, six 24×20 pictures each. Not to be changed."""
    return write_tree(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="session")
def tiny_folder(tiny_tree: Path) -> DomainDataset:
    return build_dataset("ImageFolder", str(tiny_tree))


@pytest.fixture
def make_dataset():
    """Builds a data set in memory with domains of the given sizes; ``identities`` are optional, per domain."""

    def make(sizes, identities=None, **kwargs):
        domains = tuple(
            InMemoryDomain(
                f"domain{env}",
                torch.full((size, 1, 2, 2), env, dtype=torch.uint8),
                [i % 2 for i in range(size)],
                None if identities is None else identities[env],
            )
            for env, size in enumerate(sizes)
        )
        labels = tuple(domain.name for domain in domains)
        return DomainDataset("Made", domains, (1, 2, 2), ("even", "odd"), labels, **kwargs)

    return make


@pytest.fixture(scope="session")
def cub_inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``CUB_200_2011`` and ``weights`` in miniature. Not to be changed."""
    root = tmp_path_factory.mktemp("inputs")
    write_cub(root)
    write_styles(root / "weights")
    return root


@pytest.fixture(scope="session")
def cub_built(cub_inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> BuildReport:
    """CUB-DG at the pictures' own sizes. Not to be changed."""
    return build(options(cub_inputs, tmp_path_factory.mktemp("built")))


@pytest.fixture(scope="session")
def cub_resized(cub_inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> BuildReport:
    """CUB-DG at a shorter side of 24, two pictures a batch. Not to be changed."""
    return build(options(cub_inputs, tmp_path_factory.mktemp("resized"), size=24, batch_size=2))
