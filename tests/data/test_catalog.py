"""Facts of the data sets."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sfmoe_dg.data.catalog import CATALOG
from sfmoe_dg.foundation.errors import UserError

# domainbed/datasets.py: DATASETS in its order, with ENVIRONMENTS, folder, classes and CHECKPOINT_FREQ.
UPSTREAM = {
    "Debug28": ("0 1 2", "", 2, 100),
    "Debug224": ("0 1 2", "", 2, 100),
    "ColoredMNIST": ("+90% +80% -90%", "MNIST", 2, 100),
    "RotatedMNIST": ("0 15 30 45 60 75", "MNIST", 10, 100),
    "VLCS": ("C L S V", "VLCS", 5, 300),
    "PACS": ("A C P S", "PACS", 7, 300),
    "OfficeHome": ("A C P R", "office_home", 65, 300),
    "TerraIncognita": ("L100 L38 L43 L46", "terra_incognita", 10, 300),
    "DomainNet": ("clip info paint quick real sketch", "domain_net", 345, 1000),
    "SVIRO": ("aclass escape hilux i3 lexus tesla tiguan tucson x5 zoe", "sviro", 7, 300),
    "WILDSCamelyon": ("hospital_0 hospital_1 hospital_2 hospital_3 hospital_4", "camelyon17_v1.0", 2, 100),
    "WILDSFMoW": ("region_0 region_1 region_2 region_3 region_4 region_5", "fmow_v1.1", 62, 100),
    "SpawriousO2O_easy": ("Test SC_group_1 SC_group_2", "spawrious224", 4, 100),
    "SpawriousO2O_medium": ("Test SC_group_1 SC_group_2", "spawrious224", 4, 100),
    "SpawriousO2O_hard": ("Test SC_group_1 SC_group_2", "spawrious224", 4, 100),
    "SpawriousM2M_easy": ("Test SC_group_1 SC_group_2", "spawrious224", 4, 100),
    "SpawriousM2M_medium": ("Test SC_group_1 SC_group_2", "spawrious224", 4, 100),
    "SpawriousM2M_hard": ("Test SC_group_1 SC_group_2", "spawrious224", 4, 100),
}


def test_catalog_does_not_import_torch() -> None:
    code = "import sys, sfmoe_dg.data.catalog, sfmoe_dg.data; print('torch' in sys.modules, 'PIL' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]


def test_upstream_data_sets_come_first_and_in_its_order() -> None:
    assert [name for name in CATALOG if name in UPSTREAM] == list(UPSTREAM)
    assert list(CATALOG)[: len(UPSTREAM)] == list(UPSTREAM)


@pytest.mark.parametrize("name", UPSTREAM)
def test_upstream_facts(name: str) -> None:
    labels, folder, num_classes, checkpoint_freq = UPSTREAM[name]
    entry = CATALOG.load(name)
    assert (" ".join(entry.labels), entry.folder, entry.num_classes, entry.checkpoint_freq, entry.steps) == (
        labels,
        folder,
        num_classes,
        checkpoint_freq,
        5001,
    )


@pytest.mark.parametrize("name", list(CATALOG))
def test_facts_are_consistent(name: str) -> None:
    entry = CATALOG.load(name)
    assert entry.name == name
    assert len(entry.labels) == len(entry.domains)
    assert len(entry.counts) in (0, len(entry.domains))
    if entry.reader == "sfmoe_dg.data.sets.image_folder:read":
        assert list(entry.domains) == sorted(entry.domains), "folders are read in sorted order"
    assert "random" in entry.splits


def test_published_totals() -> None:
    totals = {"VLCS": 10729, "PACS": 9991, "OfficeHome": 15588, "TerraIncognita": 24788, "DomainNet": 586575}
    assert {name: sum(CATALOG.load(name).counts) for name in totals} == totals


def test_unknown_name_lists_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown data set 'OficeHome': did you mean OfficeHome"):
        CATALOG.load("OficeHome")
