"""``sfmoe-dg doctor``: findings on complete, incomplete and missing data sets."""

from __future__ import annotations

from pathlib import Path

import pytest
from findings import levels

from sfmoe_dg.data.builders.recipe import Recipe, from_catalog
from sfmoe_dg.data.catalog import CATALOG
from sfmoe_dg.doctor import datasets
from sfmoe_dg.doctor.findings import Level


def make_images(root: Path, counts: dict[str, dict[str, int]]) -> None:
    for domain, classes in counts.items():
        for name, count in classes.items():
            (root / domain / name).mkdir(parents=True)
            for i in range(count):
                (root / domain / name / f"{i}.png").touch()


SMALL = Recipe(
    name="Small",
    folder="small",
    sources=(),
    prepare=lambda sources, target: [],
    domains=("a", "b"),
    published={"a": 3, "b": 2},
    num_classes=2,
)


@pytest.mark.parametrize(
    ("counts", "level", "said"),
    [
        ({"a": {"x": 2, "y": 1}, "b": {"x": 1, "y": 1}}, Level.OK, "Small: 5 images, as published"),
        (
            {"a": {"x": 1, "y": 1}, "b": {"x": 1, "y": 1}},
            Level.WARNING,
            "Small: 4 images, published are 5: a holds 2 images, 1 fewer than the 3 of the published copy; results",
        ),
        ({"a": {"x": 2, "y": 1}}, Level.PROBLEM, "missing: domain b; it cannot be trained on, build it again"),
        ({"a": {"x": 3}, "b": {"x": 2}}, Level.PROBLEM, "there are 1 classes, not 2"),
    ],
)
def test_a_data_set_that_is_there(counts, level, said, tmp_path):
    make_images(tmp_path / "small", counts)
    (found,) = datasets.whole(tmp_path, SMALL)
    assert found.level is level
    assert said in found.text


def test_a_data_set_that_is_absent_is_named_once_and_one_that_cannot_be_read_is_a_problem(tmp_path):
    assert list(datasets.whole(tmp_path, SMALL)) == []
    (tmp_path / "camelyon17_v1.0").mkdir()
    (found,) = datasets.absent(tmp_path)
    assert found.level is Level.OK
    assert "PACS" in found.text
    assert "MNIST, " in found.text
    assert "Camelyon" not in found.text
    recipe = next(recipe for recipe in datasets.recipes() if recipe.name == "WILDSCamelyon")
    (found,) = datasets.whole(tmp_path, recipe)
    assert found.level is Level.PROBLEM
    assert "metadata.csv is missing" in found.text
    (tmp_path / "camelyon17_v1.0/metadata.csv").write_text("patient,node\n1,2\n")
    (found,) = datasets.whole(tmp_path, recipe)
    assert found.level is Level.PROBLEM
    assert "camelyon17_v1.0 is damaged (KeyError('x_coord')); build WILDSCamelyon again" in found.text
    assert levels(datasets.absent(tmp_path / "nowhere")) == [Level.PROBLEM]


def test_every_data_set_with_a_folder_can_be_counted():
    recipes = {recipe.folder: recipe for recipe in datasets.recipes()}
    known = [CATALOG.load(name) for name in CATALOG.registered]
    assert set(recipes) == {facts.folder for facts in known if facts.folder}
    pacs, digits, dogs = recipes["PACS"], recipes["MNIST"], recipes["spawrious224"]
    assert pacs.published == dict(zip(CATALOG.load("PACS").domains, (2048, 2344, 1670, 3929), strict=True))
    for name in ("ColoredMNIST", "RotatedMNIST"):
        assert sum(digits.published.values()) == sum(CATALOG.load(name).counts)
    assert len(dogs.domains) == 6 * 3


def test_the_real_sample_is_told_from_the_whole(shared_data):
    recipe = from_catalog("PACS")
    (found,) = datasets.whole(shared_data, recipe)
    assert found.level is Level.WARNING
    assert "PACS: 1998 images, published are 9991" in found.text
