"""``--verify`` finds what is missing, cut off, changed and extra, by name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from builder_scripts import recipe, run
from image_trees import write_image, write_tree
from wilds_trees import write_camelyon, write_fmow

from sfmoe_dg.data.builders.manifest import differences, files_below, read_manifest, write_manifest
from sfmoe_dg.data.builders.verify import verify
from sfmoe_dg.data.catalog import CATALOG
from sfmoe_dg.foundation.errors import UserError

PACS_CLASSES = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")


@pytest.fixture
def pacs(tmp_path: Path) -> Path:
    """The folder PACS with one image per domain and class."""
    return write_tree(tmp_path / "PACS", CATALOG.load("PACS").domains, PACS_CLASSES, per_class=1)


def test_manifest_names_every_difference(pacs: Path) -> None:
    (pacs / ".hidden").touch()
    write_manifest(pacs)
    manifest = read_manifest(pacs)
    assert manifest is not None
    assert sorted(manifest) == sorted(files_below(pacs))
    assert len(manifest) == 28
    assert differences(pacs, manifest) == []
    (pacs / "photo/dog/0.png").unlink()
    whole = (pacs / "sketch/dog/0.png").read_bytes()
    (pacs / "sketch/dog/0.png").write_bytes(whole[:-1])
    (pacs / "sketch/house/0.png").write_bytes(b"!" * (pacs / "sketch/house/0.png").stat().st_size)
    (pacs / "cartoon/dog/0.png").write_bytes((pacs / "cartoon/dog/0.png").read_bytes() + b"!")
    write_image(pacs / "cartoon/dog/new.png")
    found = differences(pacs, manifest)
    assert [line.split(" has ")[0] for line in found] == [
        "missing: photo/dog/0.png",
        "extra: cartoon/dog/new.png",
        "changed: cartoon/dog/0.png",
        "truncated: sketch/dog/0.png",
        "changed: sketch/house/0.png",
    ]
    assert found[3] == f"truncated: sketch/dog/0.png has {len(whole) - 1} bytes, not {len(whole)}"
    assert len(differences(pacs, manifest, checksums=False)) == 4


def test_damaged_manifest(pacs: Path) -> None:
    (pacs / ".manifest.jsonl").write_text("{")
    with pytest.raises(UserError, match=r"\.manifest\.jsonl is damaged; delete it"):
        verify(recipe("pacs"), pacs.parent)


def test_against_what_was_published(pacs: Path, tmp_path: Path) -> None:
    shutil.rmtree(pacs / "photo/dog")
    shutil.rmtree(pacs / "sketch")
    write_image(pacs / "holiday/dog/0.png")
    (pacs / "cartoon/dog/0.png").write_bytes(b"text")
    check = verify(recipe("pacs"), tmp_path)
    assert check.counts == {"art_painting": 7, "cartoon": 7, "holiday": 1, "photo": 6}
    assert "missing: domain sketch" in check.problems
    assert "extra: domain holiday" in check.problems
    assert "photo has no image of class dog" in check.problems
    assert "photo holds 6 images, 1664 fewer than the 1670 of the published copy" in check.problems
    (damaged,) = [line for line in check.problems if line.startswith("truncated")]
    assert damaged.startswith("truncated or damaged: cartoon/dog/0.png (image ")
    assert check.notes[0].startswith("there is no .manifest.jsonl, which builders write, so files that are missing")


def test_hidden_folders_are_neither_counted_nor_listed(pacs: Path, tmp_path: Path) -> None:
    """As the reader leaves them out."""
    write_manifest(pacs)
    write_image(pacs / "photo/dog/.thumbnails/0.png")
    write_image(pacs / "photo/dog/more/.old/deep/0.png")
    assert verify(recipe("pacs"), tmp_path).counts["photo"] == 7
    assert differences(pacs, read_manifest(pacs) or {}) == []


def cut_off(path: Path) -> None:
    """The file without the end of its last line."""
    path.write_text(path.read_text().rstrip().rpartition(",")[0])


def without_title(path: Path) -> None:
    """The file with another title of its second column."""
    path.write_text(path.read_text().replace("patient", "person", 1))


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        ("wilds_camelyon", lambda folder: without_title(folder / "metadata.csv"), r"KeyError\('patient'\)"),
        ("wilds_camelyon", lambda folder: cut_off(folder / "metadata.csv"), r"metadata\.csv is cut off in line \d+"),
        ("wilds_fmow", lambda folder: (folder / "rgb_metadata.csv").write_bytes(b"a,b\n\xff,\xfe\n"), "UnicodeDecode"),
        ("wilds_fmow", lambda folder: cut_off(folder / "country_code_mapping.csv"), "mapping.csv is cut off in line"),
        ("cub_200_2011", lambda folder: (folder / "train_test_split.txt").write_text("1 1\n2\n"), "ValueError"),
        ("cub_200_2011", lambda folder: (folder / "train_test_split.txt").write_text("2 1\n"), r"KeyError\('1'\)"),
    ],
)
def test_damaged_tables(tmp_path: Path, name: str, damage, reason: str) -> None:
    folder = tmp_path / recipe(name).folder
    if name == "cub_200_2011":
        write_image(folder / "images/001.Awk/a.jpg")
        (folder / "images.txt").write_text("1 001.Awk/a.jpg\n")
    else:
        made = (write_camelyon if name == "wilds_camelyon" else write_fmow)(tmp_path)
        assert made == folder
    damage(folder)
    message = rf"a table in .*{folder.name} is damaged \(.*{reason}.*\); build {recipe(name).name} again"
    with pytest.raises(UserError, match=message):
        verify(recipe(name), tmp_path)


def test_known_other_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TerraIncognita as it is downloaded today is not complained about, but named."""
    terra = recipe("terra_incognita")
    write_tree(tmp_path / terra.folder, terra.domains, [f"class{i}" for i in range(10)], per_class=1)
    assert len(verify(terra, tmp_path).problems) == 4
    monkeypatch.setitem(dict(terra.known_totals), 40, "")
    object.__setattr__(terra, "known_totals", terra.known_totals | {40: "what a test makes"})  # type: ignore[operator]
    check = verify(terra, tmp_path)
    assert check.problems == ()
    assert check.notes[0] == "40 images in all: what a test makes"


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="PACS is not a folder; give the folder that holds PACS"):
        verify(recipe("pacs"), tmp_path)


@pytest.mark.shared_data
def test_real_pacs_sample(shared_data: Path, tmp_path: Path) -> None:
    """In a copy of the sample, a deleted, a truncated and an extra file are found; with and without a manifest."""
    copy = tmp_path / "PACS"
    shutil.copytree(shared_data / "PACS", copy, copy_function=shutil.copyfile)
    copy.chmod(0o755)
    write_manifest(copy)
    code, said = run("pacs", "--out", tmp_path, "--verify")
    fewer = [line for line in said if line.startswith("PROBLEM")]
    assert code == 1
    assert fewer[3] == "PROBLEM sketch holds 786 images, 3143 fewer than the 3929 of the published copy"
    assert said[0] == f"{copy}: 4 domains, 7 classes, 1998 images"
    assert len(fewer) == 4, "only the counts differ"

    for folder in copy.rglob("*"):
        folder.chmod(0o755 if folder.is_dir() else 0o644)
    deleted, cut = sorted((copy / "photo/guitar").iterdir())[:2]
    deleted.unlink()
    cut.write_bytes(cut.read_bytes()[:-1000])
    shutil.copyfile(
        cut.parent.parent / "dog" / next((copy / "photo/dog").iterdir()).name, copy / "sketch/dog/extra.jpg"
    )
    found = [line for line in run("pacs", "--out", tmp_path, "--verify")[1] if "images," not in line]
    assert f"PROBLEM missing: photo/guitar/{deleted.name}" in found
    assert "PROBLEM extra: sketch/dog/extra.jpg" in found
    assert any(line.startswith(f"PROBLEM truncated: photo/guitar/{cut.name} has ") for line in found)
    assert len([line for line in found if line.startswith("PROBLEM")]) == 3

    (copy / ".manifest.jsonl").unlink()
    for other in ("art_painting", "cartoon"):  # decoding takes a while
        shutil.rmtree(copy / other)
    found = [line for line in run("pacs", "--out", tmp_path, "--verify")[1] if line.startswith("PROBLEM truncated")]
    assert len(found) == 1
    assert f"photo/guitar/{cut.name}" in found[0]
