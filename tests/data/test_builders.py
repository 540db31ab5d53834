"""From archives to data sets that open: every script, with small archives in the real layouts; and every card."""

from __future__ import annotations

import gzip
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from builder_scripts import FOLDER, NAMES, recipe, run
from file_server import Served, serving
from image_trees import write_image
from spawrious_trees import write_spawrious
from wilds_trees import write_camelyon, write_fmow

from sfmoe_dg import data
from sfmoe_dg.data.builders import recipe as recipes
from sfmoe_dg.data.builders.camera_traps import ANNOTATION_FILES, ANNOTATIONS, IMAGES, chosen, prepare
from sfmoe_dg.data.builders.duplicates import DUPLICATES, remove_listed
from sfmoe_dg.data.catalog import CATALOG, facts
from sfmoe_dg.data.locks import file_lock
from sfmoe_dg.errors import UserError

HEADINGS = ["Source", "Licence", "Counts", "Classes", "Known faults", "Preparation", "How it was checked"]


def write_tree(root: Path, domains: Sequence[str], classes: Sequence[str]) -> None:
    """``root/domain/class/0.png``, the same picture everywhere."""
    picture = write_image(root / "0.png").read_bytes()
    (root / "0.png").unlink()
    for folder in (root / domain / name for domain in domains for name in classes):
        folder.mkdir(parents=True)
        (folder / "0.png").write_bytes(picture)


def packed(folder: Path, archive: Path) -> Path:
    """The content of a folder as a zip or tar.gz file, by the archive's name."""
    kind = "zip" if archive.suffix == ".zip" else "gztar"
    made = shutil.make_archive(str(archive.with_suffix("")) + "_made", kind, folder)
    shutil.rmtree(folder)
    return Path(made).rename(archive)


def classes(name: str) -> list[str]:
    return [f"class{i:03d}" for i in range(facts(name).num_classes)]


def build(name: str, tmp_path: Path, *argv: object) -> list[str]:
    """Run a script to ``tmp_path/data``; its problems are about counts only."""
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
    domains = [renamed.get(domain, domain) for domain in facts(name).domains]
    write_tree(tmp_path / "in" / top, domains, classes(name))
    (tmp_path / "in" / top / "ReadMe.txt").write_text("hello")
    archive = packed(tmp_path / "in", tmp_path / "any name.zip")
    said = build(script, tmp_path, "--archive", archive)
    assert f"left out of {recipe(script).sources[0].file}: ReadMe.txt" in said
    dataset = data.build(name, str(tmp_path / "data"))
    assert dataset.domain_names == facts(name).domains
    assert archive.exists(), "the user's own file stays"
    hidden = sorted(path.name for path in (tmp_path / "data").iterdir())
    assert hidden == [".sources", facts(name).folder]
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
    dataset = data.build("TerraIncognita", str(tmp_path / "data"))
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
    assert sum(map(len, data.build("RotatedMNIST", str(tmp_path / "data")))) == 80


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
    dataset = data.build(name, str(tmp_path / "data"))
    counts = {domain.name: len(domain) for domain in dataset}
    assert all(any(line.startswith(f"  {domain}: {count}") for line in said) for domain, count in counts.items())
    assert any("is made, because the package wilds looks for it" in line for line in said)
    assert code == 1


def test_spawrious(tmp_path: Path) -> None:
    write_spawrious(tmp_path / "in" / "spawrious224", per_folder=2)
    archive = packed(tmp_path / "in", tmp_path / "a.tar.gz")
    said = build("spawrious", tmp_path, "--archive", archive)
    assert "  M2M_hard Test: 16 of 25344" in said
    assert [len(domain) for domain in data.build("SpawriousM2M_hard", str(tmp_path / "data"))] == [16, 8, 8]


@pytest.fixture
def pacs_zip(tmp_path: Path) -> bytes:
    write_tree(tmp_path / "in" / "kfold", facts("PACS").domains, classes("PACS"))
    return packed(tmp_path / "in", tmp_path / "PACS.zip").read_bytes()


@pytest.fixture
def small_pacs(monkeypatch: pytest.MonkeyPatch):
    """PACS' recipe with another address."""
    monkeypatch.setenv("no_proxy", "*")

    def make(url: str) -> recipes.Recipe:
        return recipes.from_catalog("PACS", recipes.Source(url=url, file="PACS.zip", page="the authors' page"))

    return make


def test_download_and_its_memory(tmp_path: Path, pacs_zip: bytes, small_pacs) -> None:
    """What the first download had is what the second must have, unless the user says otherwise."""
    out, served = tmp_path / "data", Served(pacs_zip)
    with serving({"/PACS.zip": served}) as address:
        made = small_pacs(f"{address}/PACS.zip")
        assert recipes.build(made, out, keep_archive=True)
        assert not recipes.build(made, out)
        digest = recipes.digests(out / "archives" / "PACS.zip").sha256
        note = json.loads((out / ".sources" / "PACS.json").read_text())
        assert note == {"PACS.zip": {"from": f"{address}/PACS.zip", "size": len(pacs_zip), "sha256": digest}}

        shutil.rmtree(out / "PACS")
        recipes.build(made, out)
        assert len(served.requests) == 1, "the archive that was kept is used"
        assert not (out / "archives").exists(), "and is not kept this time"

        shutil.rmtree(out / "PACS")
        served.body = pacs_zip + b"\0"
        with pytest.raises(UserError, match=rf"its sha256 is .*, not {digest}; it is kept as .*PACS.zip.bad"):
            recipes.build(made, out)
        changed = recipes.digests(out / "archives" / "PACS.zip.bad").sha256
        recipes.build(made, out, sha256={"PACS.zip": changed})
    assert (out / "PACS" / "photo").is_dir()


def test_download_that_is_no_archive_is_not_remembered(tmp_path: Path, pacs_zip: bytes, small_pacs) -> None:
    out, served = tmp_path / "data", Served(b"<html>Too many people have downloaded this")
    with serving({"/PACS.zip": served}) as address:
        made = small_pacs(f"{address}/PACS.zip")
        with pytest.raises(UserError, match=r"is a web page, not an archive; .*; it is kept as .*PACS\.zip\.bad"):
            recipes.build(made, out)
        assert [path.name for path in (out / "archives").iterdir()] == ["PACS.zip.bad"]
        assert not (out / ".sources").exists()
        served.body = pacs_zip
        assert recipes.build(made, out)


def test_dead_link_says_what_to_do(tmp_path: Path, small_pacs) -> None:
    message = r"404 Not Found; get PACS\.zip by hand from the authors' page and give it with --archive FILE"
    with serving({}) as address, pytest.raises(UserError, match=message):
        recipes.build(small_pacs(f"{address}/PACS.zip"), tmp_path)


def test_interrupted_build_goes_on(tmp_path: Path, pacs_zip: bytes, small_pacs, monkeypatch) -> None:
    """Killed while files are moved, or before the manifest is written: nothing under its own name, then all of it."""
    out, made = tmp_path / "data", small_pacs("http://127.0.0.1:1/")

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for place in ("write_manifest", "extract"):
        with monkeypatch.context() as patch:
            patch.setattr(recipes, place, killed)
            with pytest.raises(KeyboardInterrupt):
                recipes.build(made, out, given={"PACS.zip": tmp_path / "PACS.zip"})
        assert not (out / "PACS").exists()
    recipes.build(made, out, given={"PACS.zip": tmp_path / "PACS.zip"})
    assert len(list((out / "PACS").rglob("*.png"))) == 28
    assert not list(out.glob(".building*"))


def test_what_was_unpacked_from_another_archive_is_not_used(tmp_path: Path, pacs_zip: bytes, small_pacs) -> None:
    """A wrong archive of the right name, then the right one; and what is recorded is what was built."""
    out, made = tmp_path / "data", small_pacs("http://127.0.0.1:1/")
    write_tree(tmp_path / "in", ["holiday"], ["dog"])
    wrong = packed(tmp_path / "in", tmp_path / "wrong.zip")
    with pytest.raises(UserError, match=r"PACS\.zip holds no folder with art_painting, .*; is it the right archive"):
        recipes.build(made, out, given={"PACS.zip": wrong})
    assert recipes.build(made, out, given={"PACS.zip": tmp_path / "PACS.zip"})
    assert sorted(path.name for path in (out / "PACS").iterdir() if path.is_dir()) == sorted(facts("PACS").domains)
    (note,) = json.loads((out / ".sources/PACS.json").read_text()).values()
    assert note["sha256"] == recipes.digests(tmp_path / "PACS.zip").sha256
    assert not list(out.glob(".building*"))


def test_built_by_another_just_before_the_lock(tmp_path: Path, pacs_zip: bytes, small_pacs, monkeypatch) -> None:
    out, made, given = tmp_path / "data", small_pacs("http://127.0.0.1:1/"), {"PACS.zip": tmp_path / "PACS.zip"}

    @contextmanager
    def late(path: Path, busy: str) -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(recipes, "file_lock", file_lock)
            assert recipes.build(made, out, given=given)
        with file_lock(path, busy):
            yield

    monkeypatch.setattr(recipes, "file_lock", late)
    assert not recipes.build(made, out, given=given)
    assert len(list((out / "PACS").rglob("*.png"))) == 28
    assert not list(out.glob(".building*"))


def test_what_is_there_is_not_overwritten(tmp_path: Path, pacs_zip: bytes, small_pacs) -> None:
    write_image(tmp_path / "PACS/photo/dog/mine.png")
    with pytest.raises(UserError, match="PACS exists and was not built here; check it with --verify, or move it away"):
        recipes.build(small_pacs("http://127.0.0.1:1/"), tmp_path, given={"PACS.zip": tmp_path / "PACS.zip"})


def test_only_one_builder(tmp_path: Path, small_pacs) -> None:
    made = small_pacs("http://127.0.0.1:1/")
    refused = pytest.raises(UserError, match="another process is building PACS")
    with file_lock(tmp_path / ".building-PACS/.lock"), refused:
        recipes.build(made, tmp_path)


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


def sections(path: Path) -> dict[str, str]:
    parts = re.split(r"^## (.+)\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def card_counts(path: Path) -> dict[str, int]:
    """The rows ``| domain | 1,234 |`` of the section on counts, without the total."""
    rows = re.findall(r"^\| ([^|]+?) \| ([\d,]+) \|", sections(path)["Counts"], flags=re.MULTILINE)
    return {name: int(count.replace(",", "")) for name, count in rows if name != "total"}


def test_every_script_has_a_card() -> None:
    assert {path.stem for path in FOLDER.glob("*.md")} == {path.stem for path in FOLDER.glob("*.py")}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.md")), ids=lambda path: path.stem)
def test_card_headings(path: Path) -> None:
    assert list(sections(path)) == HEADINGS
    assert all(text.strip() for text in sections(path).values())


@pytest.mark.parametrize("name", NAMES)
def test_card_counts_are_those_that_are_checked(name: str) -> None:
    made, card = recipe(name), FOLDER / f"{name}.md"
    expected = dict(made.published)
    if name == "spawrious":  # the same three numbers for all six
        expected = dict(zip(facts("SpawriousO2O_easy").domains, facts("SpawriousO2O_easy").counts, strict=True))
    if made.name in CATALOG and CATALOG[made.name].counts:
        assert tuple(expected.values()) == facts(made.name).counts
    assert card_counts(card) == expected
    assert re.search(rf"\b{made.num_classes}\b", sections(card)["Classes"])
    for source in made.sources:
        assert source.file in card.read_text(encoding="utf-8")
