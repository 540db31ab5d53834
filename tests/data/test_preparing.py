"""The common part of all builders: downloads and their records, interruptions, and one builder at a time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from file_server import Served, serving
from image_trees import write_image
from small_archives import classes, packed, write_tree

from sfmoe_dg.data.builders import recipe as recipes
from sfmoe_dg.data.catalog import CATALOG
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.locks import file_lock


@pytest.fixture
def pacs_zip(tmp_path: Path) -> bytes:
    write_tree(tmp_path / "in" / "kfold", CATALOG.load("PACS").domains, classes("PACS"))
    return packed(tmp_path / "in", tmp_path / "PACS.zip").read_bytes()


@pytest.fixture
def small_pacs(monkeypatch: pytest.MonkeyPatch):
    """The recipe of PACS with another address."""
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
    domains = sorted(path.name for path in (out / "PACS").iterdir() if path.is_dir())
    assert domains == sorted(CATALOG.load("PACS").domains)
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
