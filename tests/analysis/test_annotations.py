"""Parts and attributes of birds and of data sets that have none; those of digits are tested with observations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sfmoe_dg.analysis.subject.annotations import annotate
from sfmoe_dg.data.cub_dg.table import BirdTable, write_table
from sfmoe_dg.data.domains import DomainDataset, InMemoryDomain
from sfmoe_dg.foundation.errors import UserError


def dataset(name: str, identities) -> DomainDataset:
    pictures = torch.zeros(2, 3, 8, 8)
    domains = [InMemoryDomain(domain, pictures, [0, 0], identities) for domain in ("Candy", "Natural")]
    return DomainDataset(name, tuple(domains), (3, 8, 8), ("awk",), ("C", "N"), identity_names=("awk/1", "awk/2"))


@pytest.fixture
def birds(tmp_path):
    """Two photographs in two styles; awk/2 is 40 × 20 pixels in both, its beak is seen at (10, 5) in Candy alone."""
    pytest.importorskip("pyarrow")
    (tmp_path / "CUB_DG").mkdir()
    parts = np.array([[[1, 1, 1]], [[4, 2, 1]], [[10, 5, 1]], [[np.nan, np.nan, 0]]], dtype=np.float32)
    table = BirdTable(
        file=["a", "b", "c", "d"],
        sha256=["0"] * 4,
        domain=["Candy", "Natural", "Candy", "Natural"],
        class_name=["awk"] * 4,
        name=["awk/1", "awk/1", "awk/2", "awk/2"],
        image_id=np.array([1, 1, 2, 2]),
        split=["train"] * 4,
        size=np.array([[10, 10], [8, 8], [40, 20], [40, 20]]),
        box=np.zeros((4, 4)),
        parts=parts,
        present=np.array([[1, 0], [1, 0], [0, 1], [0, np.nan]]),
        certainty=np.array([[4, 1], [4, 1], [3, 2], [0, 0]]),
        attribute_source=["image"] * 4,
        part_names=("beak",),
        attribute_names=("red", "long"),
    )
    write_table(tmp_path / "CUB_DG" / "annotations.parquet", table)
    return tmp_path


def test_birds_are_found_by_photograph_and_style(birds):
    # The second image of a domain shows photograph 0 here.
    found = annotate(dataset("CUBDG", np.array([1, 0])), str(birds), np.array([0, 1, 1]), np.array([0, 0, 1]))
    assert (found.part_names, found.attribute_names) == (("beak",), ("red", "long"))
    np.testing.assert_allclose(found.parts[:, 0], [[0.25, 0.25, 1], [np.nan, np.nan, 0], [0.5, 0.25, 1]])
    # What cannot be seen (certainty 1) is not known; what has no certainty keeps its value.
    np.testing.assert_array_equal(found.attributes, [[0, 1], [0, np.nan], [1, np.nan]])


def test_a_missing_bird_is_named(birds):
    other = dataset("CUBDG", np.array([0, 1]))
    other = DomainDataset("CUBDG", other.domains, (3, 8, 8), ("awk",), ("C", "N"), identity_names=("awk/1", "owl/9"))
    with pytest.raises(UserError, match="lacks 1 of 2 images, the first is Natural/owl/9"):
        annotate(other, str(birds), np.array([0, 1]), np.array([0, 1]))
    with pytest.raises(UserError, match="not a table of CUB-DG's annotations"):
        annotate(other, str(birds / "CUB_DG"), np.array([0]), np.array([0]))


def test_other_data_sets_have_none():
    found = annotate(dataset("PACS", None), None, np.array([0, 1]), np.array([0, 1]))
    assert (found.part_names, found.attribute_names) == ((), ())
    assert (found.parts.shape, found.attributes.shape) == ((2, 0, 3), (2, 0))
