"""Spawrious' six data sets: the folders and images of every domain."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from spawrious_trees import write_spawrious
from torchvision import transforms as tv

from sfmoe_dg.data.batches.transforms import IMAGENET_MEAN, IMAGENET_STD, ImageTransform
from sfmoe_dg.data.build import build_dataset
from sfmoe_dg.data.catalog import CATALOG
from sfmoe_dg.data.sets import spawrious
from sfmoe_dg.data.sets.spawrious import OWN_BACKGROUND, RULES, Part, parts
from sfmoe_dg.foundation.errors import UserError


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images a folder. Not to be changed."""
    return write_spawrious(tmp_path_factory.mktemp("spawrious") / "spawrious224", per_folder=4)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Folders of four, of which three and two show the breed's own background."""
    if "tree" in request.fixturenames:
        monkeypatch.setattr(spawrious, "FOLDER_SIZE", 4)
        monkeypatch.setattr(spawrious, "OWN_BACKGROUND", (3, 2))


def test_numbers() -> None:
    """3168 · 0.97 = 3072.96 and 3168 · 0.87 = 2756.16, rounded down; 96 and 412 are left for the shared background."""
    assert OWN_BACKGROUND == (3072, 2756)
    assert parts("SpawriousO2O_easy")["SC_group_1"] == [
        Part(0, "desert", "bulldog", 3072),
        Part(0, "jungle", "dachshund", 3072),
        Part(0, "dirt", "labrador", 3072),
        Part(0, "snow", "corgi", 3072),
        *(Part(0, "beach", breed, 96) for breed in ("bulldog", "dachshund", "labrador", "corgi")),
    ]
    assert [part.limit for part in parts("SpawriousO2O_easy")["SC_group_2"]] == [2756] * 4 + [412] * 4
    assert {part.limit for part in parts("SpawriousM2M_easy")["SC_group_1"]} == {3168}


@pytest.mark.parametrize("name", RULES)
def test_counts_of_the_catalog(name: str) -> None:
    """With 3168 images in every folder; without a limit all are taken."""
    counts = [sum(part.limit or 3168 for part in chosen) for chosen in parts(name).values()]
    assert tuple(counts) == CATALOG.load(name).counts
    assert tuple(parts(name)) == CATALOG.load(name).domains


# Per domain: environment folder, background, breed and how many of its four images, written down from DomainBed's
# rules by hand. Breeds: b bulldog, d dachshund, l labrador, c corgi.
EXPECTED = {
    "SpawriousO2O_easy": (
        "0dirt/b4 0snow/d4 0desert/l4 0jungle/c4 1dirt/b4 1snow/d4 1desert/l4 1jungle/c4",
        "0desert/b3 0jungle/d3 0dirt/l3 0snow/c3 0beach/b1 0beach/d1 0beach/l1 0beach/c1",
        "1desert/b2 1jungle/d2 1dirt/l2 1snow/c2 1beach/b2 1beach/d2 1beach/l2 1beach/c2",
    ),
    "SpawriousO2O_medium": (
        "0jungle/b4 0dirt/d4 0beach/l4 0snow/c4 1jungle/b4 1dirt/d4 1beach/l4 1snow/c4",
        "0mountain/b3 0beach/d3 0dirt/l3 0jungle/c3 0desert/b1 0desert/d1 0desert/l1 0desert/c1",
        "1mountain/b2 1beach/d2 1dirt/l2 1jungle/c2 1desert/b2 1desert/d2 1desert/l2 1desert/c2",
    ),
    "SpawriousO2O_hard": (
        "0mountain/b4 0snow/d4 0desert/l4 0jungle/c4 1mountain/b4 1snow/d4 1desert/l4 1jungle/c4",
        "0jungle/b3 0mountain/d3 0snow/l3 0desert/c3 0beach/b1 0beach/d1 0beach/l1 0beach/c1",
        "1jungle/b2 1mountain/d2 1snow/l2 1desert/c2 1beach/b2 1beach/d2 1beach/l2 1beach/c2",
    ),
    "SpawriousM2M_easy": (
        "0dirt/b4 0jungle/d4 0mountain/l4 0desert/c4 0jungle/b4 0dirt/d4 0desert/l4 0mountain/c4",
        "0desert/b4 0mountain/d4 0dirt/l4 0jungle/c4",
        "0mountain/b4 0desert/d4 0jungle/l4 0dirt/c4",
    ),
    "SpawriousM2M_medium": (
        "0desert/b4 0mountain/d4 0beach/l4 0snow/c4 0mountain/b4 0desert/d4 0snow/l4 0beach/c4",
        "0beach/b4 0snow/d4 0mountain/l4 0desert/c4",
        "0snow/b4 0beach/d4 0desert/l4 0mountain/c4",
    ),
    "SpawriousM2M_hard": (
        "0snow/b4 0beach/d4 0dirt/l4 0jungle/c4 0beach/b4 0snow/d4 0jungle/l4 0dirt/c4",
        "0dirt/b4 0jungle/d4 0snow/l4 0beach/c4",
        "0jungle/b4 0dirt/d4 0beach/l4 0snow/c4",
    ),
}
BREEDS = {"b": "bulldog", "d": "dachshund", "l": "labrador", "c": "corgi"}
CLASS = {"bulldog": 0, "corgi": 1, "dachshund": 2, "labrador": 3}


@pytest.mark.parametrize("name", RULES)
def test_images_of_every_domain(tree: Path, name: str) -> None:
    dataset = build_dataset(name, str(tree.parent))
    assert dataset.domain_names == dataset.labels == ("Test", "SC_group_1", "SC_group_2")
    assert dataset.class_names == tuple(CLASS)
    for domain, text in zip(dataset, EXPECTED[name], strict=True):
        expected, targets = [], []
        for item in text.split():
            place, _, rest = item.partition("/")
            breed = BREEDS[rest[0]]
            for i in range(int(rest[1])):
                expected.append(str(tree / place[0] / place[1:] / breed / f"{place[1:]}_{breed}_{i}.png"))
                targets.append(CLASS[breed])
        assert [domain.path(i) for i in range(len(domain))] == expected
        assert domain.targets.tolist() == targets
    picture = dataset[0].image(0)
    assert isinstance(picture, Image.Image)
    assert picture.size == (3, 2)


def test_folders_may_lie_in_data_dir_itself(tree: Path) -> None:
    assert len(build_dataset("SpawriousM2M_easy", str(tree))[0]) == 32


def test_bad_images(tree: Path, tmp_path: Path) -> None:
    shutil.copytree(tree, tmp_path / "spawrious224")
    bad = tmp_path / "spawrious224/0/beach/corgi/beach_corgi_2.png"
    bad.write_text("text")
    dataset = build_dataset("SpawriousM2M_hard", str(tmp_path), on_bad_image="skip")
    assert dataset.skipped == (str(bad),)
    assert [len(domain) for domain in dataset] == [32, 15, 16]
    assert dataset[1].name == "SC_group_1"


def test_what_is_missing_is_named(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Spawrious is looked for in .*spawrious224, which has no folder 0"):
        build_dataset("SpawriousM2M_easy", str(tmp_path))
    (tmp_path / "spawrious224/0").mkdir(parents=True)
    with pytest.raises(UserError, match=r"0/dirt/bulldog holds no image, which Spawrious needs"):
        build_dataset("SpawriousM2M_easy", str(tmp_path))


def test_augmentation_does_not_crop() -> None:
    """DomainBed's list of transforms for Spawrious, with the same random numbers."""
    import torch

    assert not CATALOG.load("SpawriousO2O_easy").crops
    assert CATALOG.load("PACS").crops
    picture = Image.fromarray(np.random.RandomState(0).randint(0, 256, (50, 70, 3), dtype=np.uint8))
    wanted = tv.Compose(
        [
            tv.Resize((224, 224)),
            tv.RandomHorizontalFlip(),
            tv.ColorJitter(0.3, 0.3, 0.3, 0.3),
            tv.RandomGrayscale(),
            tv.ToTensor(),
            tv.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    ours = ImageTransform(augment=True, crop=False)
    for seed in range(4):
        torch.manual_seed(seed)
        expected = wanted(picture)
        torch.manual_seed(seed)
        assert torch.equal(ours(picture), expected)
