"""The published numbers: they are complete, use the registered names, and are shown beside measured ones."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from sfmoe_dg.algorithms.registry import ALGORITHMS
from sfmoe_dg.analysis.compare.published_numbers import PUBLISHED_COLUMNS, SELECTIONS, beside_published, published
from sfmoe_dg.data.catalog import CATALOG
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.results.selection import SELECTION_METHODS

VALIDATION, LEAVE_ONE_OUT, ORACLE = (method.name for method in SELECTION_METHODS)


def cell(**wanted) -> pd.DataFrame:
    found = published()
    for name, value in wanted.items():
        found = found[found[name] == value]
    return found


def test_every_name_is_one_of_ours():
    found = published()
    assert tuple(found.columns) == PUBLISHED_COLUMNS
    assert set(found["algorithm"]) - {""} <= set(ALGORITHMS)
    assert set(found["dataset"]) <= set(CATALOG)
    assert set(found["selection"]) == {VALIDATION, LEAVE_ONE_OUT, ORACLE, "not stated"}
    assert {VALIDATION, LEAVE_ONE_OUT, ORACLE} < set(SELECTIONS.values())
    for dataset, domains in found[found["domain"] != ""].groupby("dataset")["domain"]:
        assert tuple(domains) == tuple(CATALOG[dataset].labels)
    assert found["accuracy"].between(20, 100).all()
    assert not found.duplicated(["source", "version", "method", "dataset", "domain", "selection"]).any()


def test_some_numbers():
    two_versions = cell(algorithm="SFMoE", dataset="PACS", selection=VALIDATION)
    assert two_versions["accuracy"].tolist() == [87.6, 87.3]
    assert two_versions["version"].tolist() == ["arXiv 2206.04046 v1", "arXiv 2206.04046 v2"]
    iclr = cell(method="GMoE-S/16", dataset="TerraIncognita")
    assert iclr[["source", "accuracy", "stderr"]].to_numpy().tolist() == [["GMoE", 48.5, 0.4]]
    upstream = cell(source="DomainBed", algorithm="ERM", domain="")
    assert upstream[upstream["dataset"] == "ColoredMNIST"]["accuracy"].tolist() == [51.5, 36.7, 57.8]
    assert upstream["stderr"].isna().all()
    rotated = cell(dataset="RotatedMNIST", selection=VALIDATION)
    assert rotated[rotated["domain"] != ""]["accuracy"].mean() == pytest.approx(98.0, abs=0.05)


def test_filters():
    assert set(published("PACS", ORACLE)["source"]) == {"DomainBed"}
    assert set(published(sources=["GMoE"])["version"]) == {"ICLR 2023"}
    with pytest.raises(UserError, match="the sources are DomainBed, GMoE, SF-MoE"):
        published(sources=["Nobody"])
    with pytest.raises(UserError, match="selection method 'best' does not exist"):
        published(selection="best")


def test_differences_are_marked():
    measured = pd.DataFrame(
        [("PACS", "GMoE", 88.5, 0.3), ("OfficeHome", "GMoE", 72.7, 0.2), ("PACS", "Mine", 99.0, 0.1)],
        columns=["dataset", "method", "mean", "stderr"],
    )
    found = beside_published(measured, VALIDATION).set_index("dataset")
    assert list(found.index) == ["PACS", "OfficeHome"]
    # 88.5 ± 0.3 for 88.1 ± 0.1: 0.4 / √0.1; 72.7 ± 0.2 for 74.2 ± 0.4: −1.5 / √0.2.
    assert found.loc["PACS", "standard_errors"] == pytest.approx(0.4 / math.sqrt(0.1))
    assert found.loc["OfficeHome", "standard_errors"] == pytest.approx(-1.5 / math.sqrt(0.2))
    assert found["mark"].tolist() == ["", "lower"]
    assert found.loc["PACS", ["published", "published_stderr"]].tolist() == [88.1, 0.1]


def test_without_an_error_nothing_is_said():
    measured = pd.DataFrame([("PACS", "ERM", 90.0, 0.0)], columns=["dataset", "method", "mean", "stderr"])
    marks = beside_published(measured, VALIDATION).set_index("source")["mark"]
    assert marks.to_dict() == {"DomainBed": "?", "SF-MoE": "higher"}
    assert beside_published(measured, LEAVE_ONE_OUT)["difference"].tolist() == pytest.approx([7.0, 7.0])
