"""``--dataset CUBDG`` on what the builder made: classes, official test birds, both split policies, training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from cub_trees import CLASSES, write_cub, write_styles

from sfmoe_dg.data.build import build_dataset
from sfmoe_dg.data.cub_dg.build import build
from sfmoe_dg.data.cub_dg.plan import BuildOptions
from sfmoe_dg.data.cub_dg.table import BirdTable, read_table
from sfmoe_dg.data.domains import DomainDataset
from sfmoe_dg.data.splits import DomainSplit, count_shared_identities, split_domains
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.runs.spec import Options, RunSpec
from sfmoe_dg.training.loop import train
from sfmoe_dg.training.prepare import Execution


@pytest.fixture(scope="session")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``CUB_DG``: six birds of three classes. Not to be changed."""
    root = tmp_path_factory.mktemp("cub_dg")
    cub, weights = write_cub(root / "in"), write_styles(root / "weights")
    build(BuildOptions(cub=cub, weights=weights, out=root, size=24, jobs=1, device="cpu"))
    return root


@pytest.fixture
def copy(miniature: Path, tmp_path: Path) -> Path:
    shutil.copytree(miniature / "CUB_DG", tmp_path / "CUB_DG")
    return tmp_path


def image_ids(dataset: DomainDataset, table: BirdTable, env: int, images: np.ndarray) -> set[int]:
    """CUB's image ids for some images of a domain, read from the files without the reader under test."""
    id_of_file = {file: int(number) for file, number in zip(table.file, table.image_id, strict=True)}
    domain = dataset[env]
    return {id_of_file[f"{domain.name}/{'/'.join(domain.path(i).split('/')[-2:])}"] for i in images.tolist()}


def sides(dataset: DomainDataset, table: BirdTable, splits: list[DomainSplit], test_env: int) -> tuple[set, set]:
    """CUB's ids of the images for training and selection, and of those in the test domain."""
    trained = [image_ids(dataset, table, env, split.used) for env, split in enumerate(splits) if env != test_env]
    return set.union(*trained), image_ids(dataset, table, test_env, splits[test_env].used)


def test_what_was_built_is_what_is_read(miniature: Path) -> None:
    dataset = build_dataset("CUBDG", str(miniature))
    assert dataset.domain_names == dataset.labels == ("Candy", "Mosaic", "Natural", "Udnie")
    assert (dataset.class_names, dataset.num_classes) == (CLASSES, 3)
    assert dataset.ignored == ()
    assert [len(domain) for domain in dataset] == [6] * 4
    assert dataset.test_identities is not None
    names = [dataset.identity_names[i] for i in dataset.test_identities]
    assert names == ["001.Awk/Awk_0002", "002.Bunting/Bunting_0002", "003.Coot/Coot_0002"]


@pytest.mark.parametrize("test_env", range(4))
@pytest.mark.parametrize("trial_seed", range(3))
def test_no_bird_on_both_sides(miniature: Path, test_env: int, trial_seed: int) -> None:
    dataset, table = build_dataset("CUBDG", str(miniature)), read_table(miniature / "CUB_DG/annotations.parquet")
    given = {"trial_seed": trial_seed, "holdout_fraction": 0.4}
    splits = split_domains(dataset, [test_env], policy="identity", **given)
    trained, tested = sides(dataset, table, splits, test_env)
    assert (trained, tested) == ({11, 13, 15}, {12, 14, 16})
    assert count_shared_identities(dataset, splits, [test_env]) == 0
    splits = split_domains(dataset, [test_env], policy="random", **given)
    trained, tested = sides(dataset, table, splits, test_env)
    assert len(trained & tested) == 6  # every bird, in another style


@pytest.mark.parametrize(
    ("algorithm", "split"),
    [
        ("ERM", "random"),
        ("SFMoE", "identity"),
        pytest.param("ERM", "identity", marks=pytest.mark.slow),
        pytest.param("SFMoE", "random", marks=pytest.mark.slow),
    ],
)
def test_training(miniature: Path, tmp_path: Path, algorithm: str, split: str) -> None:
    backbone = "sf_moe_tiny_32" if algorithm == "SFMoE" else "vit_tiny_32"
    spec = RunSpec(
        dataset="CUBDG",
        data_dir=str(miniature),
        algorithm=algorithm,
        hparams=json.dumps({"backbone": backbone, "pretrained": False, "batch_size": 2}),
        steps=2,
        test_envs=(2,),
        holdout_fraction=0.4,
        options=Options(split=split),
    )
    train(spec, tmp_path / "run", Execution(device="cpu", num_workers=0))
    assert json.loads((tmp_path / "run/run.json").read_text())["classes"] == list(CLASSES)


def edit(root: Path, **changes) -> None:
    path = root / "CUB_DG/manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: edit(root, complete=False), "is not built to the end; give datasets/cub_dg.py's command again"),
        (lambda root: edit(root, images=3), "manifest.json is not a manifest of datasets/cub_dg.py"),
        (lambda root: edit(root, domains=["Candy", "Natural"]), "built with the domains Candy, Natural, but CUBDG is"),
        (lambda root: edit(root, images={}), "holds image 001.Awk/Awk_0001, not as its manifest.json lists"),
        (lambda root: edit(root, classes=["1", "2", "3"]), r"holds classes 001.Awk, .*, not as its manifest.json"),
        (lambda root: edit(root, classes=["1"]), "CUBDG has 1 classes, but .* holds 3"),
        (lambda root: (root / "CUB_DG/manifest.json").unlink(), "CUBDG has 200 classes, but .* holds 3"),
        (
            lambda root: (root / "CUB_DG/Candy/001.Awk/Awk_0001.jpg").unlink(),
            "CUB_DG holds 23 pictures, not the 24 that its manifest.json lists; give datasets/cub_dg.py's command",
        ),
    ],
)
def test_folders_that_do_not_fit_their_manifest(copy: Path, spoil, message: str) -> None:
    spoil(copy)
    with pytest.raises(UserError, match=message):
        build_dataset("CUBDG", str(copy))


def test_bad_pictures_may_be_skipped_but_not_missing(copy: Path) -> None:
    (copy / "CUB_DG/Candy/001.Awk/Awk_0001.jpg").write_text("spoiled")
    dataset = build_dataset("CUBDG", str(copy), on_bad_image="skip")
    assert [len(domain) for domain in dataset] == [5, 6, 6, 6]
    (copy / "CUB_DG/Udnie/003.Coot/Coot_0002.jpg").unlink()
    with pytest.raises(UserError, match="holds 23 pictures, not the 24"):
        build_dataset("CUBDG", str(copy), on_bad_image="skip")


@pytest.mark.shared_data
def test_real_birds(shared_data: Path, tmp_path: Path) -> None:
    """The whole sample, small and with random styles: 323 birds, of which CUB keeps 160 or so for testing."""
    weights = write_styles(tmp_path / "weights")
    given = BuildOptions(
        cub=shared_data / "CUB_200_2011",
        weights=weights,
        out=tmp_path,
        size=24,
        jobs=1,
        device="cpu",
        batch_size=16,
        allow_missing=True,
    )
    build(given)
    dataset, table = build_dataset("CUBDG", str(tmp_path)), read_table(tmp_path / "CUB_DG/annotations.parquet")
    assert (len(table), dataset.num_classes) == (4 * 323, 6)
    official = {int(i) for i, split in zip(table.image_id, table.split, strict=True) if split == "test"}
    splits = split_domains(dataset, [2], policy="identity")
    trained, tested = sides(dataset, table, splits, 2)
    assert (tested, trained & official, len(trained | tested)) == (official, set(), 323)
    assert count_shared_identities(dataset, splits, [2]) == 0
    splits = split_domains(dataset, [2], policy="random")
    trained, tested = sides(dataset, table, splits, 2)
    assert len(trained & tested) == 323
    # A photo is left out of all three training in-splits with probability 0.2³: of 259 tested ones about 2.
    assert 250 <= (count_shared_identities(dataset, splits, [2]) or 0) <= 259
