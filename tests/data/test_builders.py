"""Every builder script makes a readable data set from small archives in the real layouts."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from builder_scripts import FOLDER, NAMES, recipe, run
from image_trees import write_image
from small_archives import classes, packed, write_tree
from spawrious_trees import write_spawrious
from wilds_trees import write_camelyon, write_fmow

from sfmoe_dg.data.build import build_dataset
from sfmoe_dg.data.builders import recipe as recipes
from sfmoe_dg.data.builders.camera_traps import ANNOTATION_FILES, ANNOTATIONS, IMAGES, chosen, prepare
from sfmoe_dg.data.builders.duplicates import DUPLICATES, remove_listed
from sfmoe_dg.data.catalog import CATALOG
from sfmoe_dg.foundation.errors import UserError


def build(name: str, tmp_path: Path, *argv: object) -> list[str]:
    """Run a script with ``tmp_path/data`` as its output. Only the numbers of images may be reported as wrong."""
    code, said = run(name, "--out", tmp_path / "data", *argv)
    problems = [line for line in said if line.startswith("PROBLEM")]
    assert code == (1 if problems else 0)
    assert all("of the published copy" in line for line in problems)
    assert (tmp_path / "data" / recipe(name).folder / ".manifest.jsonl").exists()
    return said


@pytest.mark.parametrize(
    ("script", "name", "top", "renamed"),
    [
        ("pacs", "PACS", "kfold", {}),
        ("vlcs", "VLCS", "VLCS", {}),
        ("office_home", "OfficeHome", "OfficeHomeDataset_10072016", {"Real World": "Real_World"}),
        ("sviro", "SVIRO", "SVIRO_DOMAINBED", {}),
    ],
)
def test_image_folders(tmp_path: Path, script: str, name: str, top: str, renamed: dict[str, str]) -> None:
    domains = [renamed.get(domain, domain) for domain in CATALOG.load(name).domains]
    write_tree(tmp_path / "in" / top, domains, classes(name))
    (tmp_path / "in" / top / "ReadMe.txt").write_text("hello")
    archive = packed(tmp_path / "in", tmp_path / "any name.zip")
    said = build(script, tmp_path, "--archive", archive)
    assert f"left out of {recipe(script).sources[0].file}: ReadMe.txt" in said
    dataset = build_dataset(name, str(tmp_path / "data"))
    assert dataset.domain_names == CATALOG.load(name).domains
    assert archive.exists(), "the user's own file stays"
    hidden = sorted(path.name for path in (tmp_path / "data").iterdir())
    assert hidden == [".sources", CATALOG.load(name).folder]
    said = build(script, tmp_path, "--archive", archive)
    assert said[0].endswith("was built before; --verify reads and checks every file")


def test_terra_incognita(tmp_path: Path) -> None:
    """Ten images, one per class, at each location; one of two classes, one elsewhere, one of another class."""
    names = [*sorted({"bird", "bobcat", "cat", "coyote", "dog", "empty", "opossum", "rabbit", "raccoon", "squirrel"})]
    categories = [{"id": i, "name": name} for i, name in enumerate([*names, "car"])]
    images = [
        {"id": f"{place}-{i}", "location": place, "file_name": f"{place}-{i}.jpg"}
        for place in (38, 43, 46, 100, 7)
        for i in range(11)
    ]
    annotations = [{"image_id": image["id"], "category_id": int(str(image["id"]).split("-")[1])} for image in images]
    annotations += [{"image_id": "38-0", "category_id": 1}, {"image_id": "38-0", "category_id": 1}]
    images.append({"id": "100-00", "location": 100, "file_name": "100-00.jpg"})
    annotations.append({"image_id": "100-00", "category_id": 0})
    for image in images:
        if image["id"] == "100-0":
            continue
        write_image(tmp_path / "in" / "eccv_18_all_images_sm" / str(image["file_name"]))
    folder = tmp_path / "notes" / "eccv_18_annotation_files"
    folder.mkdir(parents=True)
    for i, file in enumerate(ANNOTATION_FILES):  # images and annotations are spread over the files, not together
        part = {"categories": categories, "images": images[i::5], "annotations": annotations[4 - i :: 5]}
        (folder / file).write_text(json.dumps(part))
    archives = [packed(tmp_path / "in", tmp_path / IMAGES), packed(tmp_path / "notes", tmp_path / ANNOTATIONS)]
    said = build("terra_incognita", tmp_path, "--archive", *archives)
    assert f"1 images are annotated but not in {IMAGES}, the first is 100-0.jpg" in said
    dataset = build_dataset("TerraIncognita", str(tmp_path / "data"))
    assert dataset.class_names == tuple(names)
    assert [len(domain) for domain in dataset] == [10, 11, 10, 10]
    assert "bobcat/38-0.jpg" in dataset[1].files  # type: ignore[attr-defined]
    assert "bird/38-0.jpg" in dataset[1].files  # type: ignore[attr-defined]


def test_camera_traps_by_hand() -> None:
    part = {
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "car"}],
        "images": [
            {"id": "a", "location": 38, "file_name": "a.jpg"},
            {"id": "b", "location": "100", "file_name": "b.jpg"},
            {"id": "c", "location": 99, "file_name": "c.jpg"},
        ],
        "annotations": [
            {"image_id": i, "category_id": c} for i, c in [("a", 1), ("b", 2), ("b", 1), ("c", 1), ("d", 1)]
        ],
    }
    assert chosen([part]) == {("38", "cat", "a.jpg"), ("100", "cat", "b.jpg")}
    part["images"][0]["file_name"] = "../a.jpg"  # type: ignore[call-overload]
    with pytest.raises(UserError, match=r"names the image '\.\./a\.jpg', which is not a plain file name"):
        chosen([part])


@pytest.mark.parametrize(
    ("images", "annotations", "reason"),
    [
        ([{"id": "a", "file_name": "a.jpg"}], [], "'location'"),
        ([{"id": "a", "location": 38, "file_name": "a.jpg"}], [{"image_id": "a", "category_id": 9}], "KeyError.9"),
        (["a.jpg"], [], "TypeError"),
    ],
)
def test_damaged_records_of_camera_traps(tmp_path: Path, images, annotations, reason: str) -> None:
    part = {"categories": [{"id": 1, "name": "cat"}], "images": images, "annotations": annotations}
    for file in ANNOTATION_FILES:
        (tmp_path / file).write_text(json.dumps(part))
    message = rf"a record in {ANNOTATIONS} is damaged \(.*{reason}.*\); get the archive again"
    with pytest.raises(UserError, match=message):
        prepare({ANNOTATIONS: tmp_path}, tmp_path / "out")


def test_domain_net(tmp_path: Path) -> None:
    archives = []
    for domain in DUPLICATES:
        write_tree(tmp_path / "in", [domain], ["class000", "class001"])
        write_image(tmp_path / "in" / domain / "class000" / "again.png")
        archives.append(packed(tmp_path / "in", tmp_path / f"{domain}.zip"))
    listed = tmp_path / "my list"
    listed.write_text("clipart/class000/again.png\nreal/class000/again.png\nreal/class001/gone.png\n")
    with pytest.raises(SystemExit):
        run("domain_net", "--out", tmp_path / "data", "--archive", *archives, "--duplicates", listed)
    digest = recipes.digests(listed).sha256
    argv = ("--archive", *archives, "--duplicates", listed, "--sha256", f"domain_net_duplicates.txt={digest}")
    code, said = run("domain_net", "--out", tmp_path / "data", *argv)
    assert code == 1
    assert "PROBLEM there are 2 classes, not 345" in said
    assert "clipart: 1 duplicates removed of 1 listed (DomainBed's list has 704: this is another list)" in said
    assert "real: 1 duplicates removed of 2 listed (DomainBed's list has 2380: this is another list)" in said
    assert "quickdraw: 0 duplicates removed of 0 listed" in said
    assert [line for line in said if line.startswith("  ")] == [
        "  clipart: 2 of 48129",
        "  infograph: 3 of 51605",
        "  painting: 3 of 72266",
        "  quickdraw: 3 of 172500",
        "  real: 2 of 172947",
        "  sketch: 3 of 69128",
    ]


@pytest.mark.parametrize("line", ["../real/a/b.png", "photo/a/b.png", "real/b.png", "/real/a/b.png"])
def test_duplicates_only_of_these_domains(tmp_path: Path, line: str) -> None:
    write_image(tmp_path / "real/a/b.png")
    (tmp_path / "list").write_text(f"real/a/b.png\n{line}\n")
    with pytest.raises(UserError, match="which is not domain/class/file"):
        remove_listed(tmp_path, tmp_path / "list")
    assert (tmp_path / "real/a/b.png").exists()


def idx(*shape: int) -> bytes:
    content = np.arange(np.prod(shape)) % 10
    return bytes([0, 0, 8, len(shape)]) + np.array(shape, ">i4").tobytes() + content.astype(np.uint8).tobytes()


def test_mnist(tmp_path: Path) -> None:
    archives = []
    for prefix, count in (("train", 60), ("t10k", 20)):
        for kind, content in (("images-idx3", idx(count, 28, 28)), ("labels-idx1", idx(count))):
            archives.append(tmp_path / f"{prefix}-{kind}-ubyte.gz")
            archives[-1].write_bytes(gzip.compress(content))
    with pytest.raises(SystemExit):
        run("mnist", "--out", tmp_path / "data", "--archive", *archives)
    checksums = [f"{path.name}={recipes.digests(path).sha256}" for path in archives]
    build("mnist", tmp_path, "--archive", *archives, "--sha256", *checksums)
    assert sum(map(len, build_dataset("RotatedMNIST", str(tmp_path / "data")))) == 80


def test_cub(tmp_path: Path) -> None:
    root = tmp_path / "in" / "CUB_200_2011"
    names = [f"{i + 1:03d}.Bird/{i}.jpg" for i in range(200)]
    for name in names:
        write_image(root / "images" / name)
    (root / "images.txt").write_text("".join(f"{i + 1} {name}\n" for i, name in enumerate(names)))
    (root / "train_test_split.txt").write_text("".join(f"{i + 1} {i % 2}\n" for i in range(200)))
    (tmp_path / "in" / "attributes.txt").write_text("1 has_bill_shape::curved\n")
    archive = packed(tmp_path / "in", tmp_path / "CUB_200_2011.tar.gz")
    checksum = recipes.digests(archive).sha256
    code, said = run("cub_200_2011", "--out", tmp_path / "data", "--archive", archive, "--sha256", checksum)
    assert code == 1
    assert "  train: 100 of 5994" in said
    assert (tmp_path / "data/CUB_200_2011/attributes/attributes.txt").read_text().startswith("1 has_bill")


@pytest.mark.parametrize(("script", "name"), [("wilds_camelyon", "WILDSCamelyon"), ("wilds_fmow", "WILDSFMoW")])
def test_wilds(tmp_path: Path, script: str, name: str) -> None:
    made = (write_camelyon if script == "wilds_camelyon" else write_fmow)(tmp_path / "in")
    next(made.glob("RELEASE*")).unlink()
    (archive := packed(made, tmp_path / "a.tar.gz"))
    code, said = run(script, "--out", tmp_path / "data", "--archive", archive)
    dataset = build_dataset(name, str(tmp_path / "data"))
    counts = {domain.name: len(domain) for domain in dataset}
    assert all(any(line.startswith(f"  {domain}: {count}") for line in said) for domain, count in counts.items())
    assert any("is made, because the package wilds looks for it" in line for line in said)
    assert code == 1


def test_spawrious(tmp_path: Path) -> None:
    write_spawrious(tmp_path / "in" / "spawrious224", per_folder=2)
    archive = packed(tmp_path / "in", tmp_path / "a.tar.gz")
    said = build("spawrious", tmp_path, "--archive", archive)
    assert "  M2M_hard Test: 16 of 25344" in said
    assert [len(domain) for domain in build_dataset("SpawriousM2M_hard", str(tmp_path / "data"))] == [16, 8, 8]


def test_archive_of_something_else(tmp_path: Path, capsys) -> None:
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("notes.txt"), io.BytesIO())
    with pytest.raises(SystemExit) as exit_:
        run("pacs", "--out", tmp_path / "data", "--archive", tmp_path / "a.tgz")
    assert exit_.value.code == 2
    message = capsys.readouterr().err
    assert "PACS.zip holds no folder with art_painting, cartoon, photo, sketch (it begins with notes.txt)" in message
    with pytest.raises(SystemExit):
        run("terra_incognita", "--out", tmp_path, "--archive", tmp_path / "a.tgz")
    assert "is none of the files that TerraIncognita is made of: eccv_18_all_im" in capsys.readouterr().err
    for bad in ("abc", "other.zip=" + "0" * 64):
        with pytest.raises(SystemExit):
            run("pacs", "--out", tmp_path, "--sha256", bad)
        assert f"--sha256 {bad} is not FILE=HEX with 64 digits" in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_recipe(name: str) -> None:
    made = recipe(name)
    assert len({source.file for source in made.sources}) == len(made.sources)
    for source in made.sources:
        assert source.url.startswith(("https://", "http://"))
        assert len(source.sha256 or "0" * 64) == 64
        assert len(source.md5 or "0" * 32) == 32


def test_script_from_the_command_line(tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / "pacs.py"), "--out", str(tmp_path), "--verify"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("pacs.py: error: ")
    assert len(result.stderr.splitlines()) == 1
