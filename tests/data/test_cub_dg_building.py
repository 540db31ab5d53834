"""Building CUB-DG: the bytes are the same however often the builder is killed; wrong inputs are refused."""

from __future__ import annotations

import dataclasses
import errno
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from cub_trees import SCRIPT, options, style_weights, tree_hash

from sfmoe_dg.data.cub_dg import build as building
from sfmoe_dg.data.cub_dg import work
from sfmoe_dg.data.cub_dg.build import BuildReport, build, verify
from sfmoe_dg.data.cub_dg.table import read_table, write_table
from sfmoe_dg.foundation import files
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.files import write_atomic
from sfmoe_dg.foundation.locks import file_lock

# ------------------------------------------------------------------------------------------------ the same bytes


def test_same_bytes_again(cub_inputs: Path, tmp_path: Path, cub_resized: BuildReport) -> None:
    again = build(options(cub_inputs, tmp_path, size=24, batch_size=2))
    assert tree_hash(again.folder) == tree_hash(cub_resized.folder)
    assert build(options(cub_inputs, tmp_path, size=24, batch_size=2)).made == 0
    assert tree_hash(again.folder) == tree_hash(cub_resized.folder)


def test_missing_and_damaged_files_are_made_again(cub_inputs: Path, tmp_path: Path, cub_resized: BuildReport) -> None:
    folder = tmp_path / "CUB_DG"
    shutil.copytree(cub_resized.folder, folder)
    (folder / "Candy/001.Awk/Awk_0001.jpg").unlink()
    (folder / "Udnie/002.Bunting/Bunting_0001.jpg").write_bytes(b"cut short")
    (folder / "Candy/001.Awk/.x.jpg.1.ab.tmp").write_bytes(b"left behind")
    (folder / "Candy/001.Awk/new.jpg").write_bytes(b"")
    assert verify(folder) == [
        "Candy/001.Awk/Awk_0001.jpg is missing",
        "Udnie/002.Bunting/Bunting_0001.jpg has changed since it was built",
        "Candy/001.Awk/.x.jpg.1.ab.tmp is no part of CUB-DG",
        "Candy/001.Awk/new.jpg is no part of CUB-DG",
    ]
    given = options(cub_inputs, tmp_path, size=24, batch_size=2)
    with pytest.raises(UserError, match=r"Candy/001.Awk/new.jpg is no part of CUB-DG \(1 such files\); move it away"):
        build(given)
    (folder / "Candy/001.Awk/new.jpg").unlink()
    build(given)
    assert tree_hash(folder) == tree_hash(cub_resized.folder)
    (folder / "annotations.parquet").write_bytes(b"PAR1")
    build(given)
    assert tree_hash(folder) == tree_hash(cub_resized.folder)


@pytest.mark.parametrize("damage", ["cut", "altered", "gone"])
def test_a_damaged_table_vouches_for_no_picture(cub_inputs: Path, tmp_path: Path, cub_resized, damage: str) -> None:
    """A spoiled picture is made again though the table that would tell is damaged, or tells the spoiled one's sum."""
    folder = tmp_path / "CUB_DG"
    shutil.copytree(cub_resized.folder, folder)
    spoiled, path = "Udnie/002.Bunting/Bunting_0001.jpg", folder / "annotations.parquet"
    (folder / spoiled).write_bytes(b"cut short")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "gone":
        path.unlink()
    else:
        table = read_table(path)
        sums = [building.sha256_of(folder / file) for file in table.file]
        write_table(path, dataclasses.replace(table, sha256=sums))
    build(options(cub_inputs, tmp_path, size=24, batch_size=2))
    assert tree_hash(folder) == tree_hash(cub_resized.folder)


def test_without_pyarrow_nothing_is_begun(cub_inputs: Path, tmp_path: Path, cub_resized, monkeypatch) -> None:
    """Neither are pictures painted for a table that cannot be written, nor is a complete build called incomplete."""
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    before = tree_hash(cub_resized.folder)
    for out in (tmp_path, cub_resized.folder.parent):
        with pytest.raises(UserError, match="table needs pyarrow; install it"):
            build(options(cub_inputs, out, size=24, batch_size=2))
    assert not list(tmp_path.iterdir())
    assert tree_hash(cub_resized.folder) == before


class KilledError(BaseException):
    """Stands for a kill. The builder must not catch it."""


@pytest.mark.parametrize("moment", range(0, 27, 3))
def test_interrupted_at_every_kind_of_moment(
    cub_inputs: Path, tmp_path: Path, cub_resized, monkeypatch, moment: int
) -> None:
    """Dies instead of putting the moment-th file in its place: first manifest, 24 pictures, table, last manifest."""
    replace, calls = os.replace, iter(range(100))

    def dying(source, target):
        if next(calls) == moment:
            raise KilledError
        replace(source, target)

    given = options(cub_inputs, tmp_path, size=24, batch_size=2)
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", dying)
        with pytest.raises(KilledError):
            build(given)
    build(given)
    assert tree_hash(tmp_path / "CUB_DG") == tree_hash(cub_resized.folder)


def test_killed_at_random_moments(cub_inputs: Path, tmp_path: Path, cub_resized: BuildReport) -> None:
    """SIGKILL, which no code can answer, again and again until a build gets through."""
    given = options(cub_inputs, tmp_path, size=24, batch_size=2)
    delays = random.Random(0)
    context, killed = multiprocessing.get_context("fork"), 0
    for _ in range(25):
        process = context.Process(target=build, args=(given,))
        process.start()
        process.join(delays.uniform(0.0, 0.15))
        if process.exitcode is None:
            os.kill(process.pid or 0, signal.SIGKILL)
            killed += 1
        process.join()
    build(given)
    assert killed > 0
    assert tree_hash(tmp_path / "CUB_DG") == tree_hash(cub_resized.folder)


@pytest.mark.slow
def test_killed_with_several_processes(cub_inputs: Path, tmp_path: Path, cub_resized: BuildReport) -> None:
    command = [
        sys.executable,
        str(SCRIPT),
        "--cub",
        str(cub_inputs),
        "--weights",
        str(cub_inputs / "weights"),
        "--jobs",
        "2",
    ]
    command += ["--out", str(tmp_path), "--size", "24", "--batch_size", "2", "--device", "cpu"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.rglob("*.jpg")) and time.monotonic() < deadline:
            time.sleep(0.002)
        process.kill()
    for _ in range(500):  # its workers end with it: they would hold its process group
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.02)
    else:
        pytest.fail("worker processes outlive the builder")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "24 pictures" in done.stdout
    assert tree_hash(tmp_path / "CUB_DG") == tree_hash(cub_resized.folder)


# ------------------------------------------------------------------------------------------------ what is refused


def test_missing_images(cub_inputs: Path, tmp_path: Path) -> None:
    shutil.copytree(cub_inputs, tmp_path / "in")
    shutil.rmtree(tmp_path / "in/CUB_200_2011/images/002.Bunting")
    message = r"2 of the 6 images of .*images.txt are missing, the first is .*Bunting_0001.jpg; .* allow_missing"
    with pytest.raises(UserError, match=message):
        build(options(tmp_path / "in", tmp_path))
    report = build(options(tmp_path / "in", tmp_path, allow_missing=True))
    assert report.manifest["counts"]["missing"] == 2
    assert report.manifest["classes"] == ["001.Awk", "003.Coot"]
    shutil.rmtree(tmp_path / "in/CUB_200_2011/images")
    with pytest.raises(UserError, match=r"6 of the 6 images .* there is nothing to build"):
        build(options(tmp_path / "in", tmp_path, allow_missing=True))


def test_damaged_image(cub_inputs: Path, tmp_path: Path) -> None:
    shutil.copytree(cub_inputs, tmp_path / "in")
    path = tmp_path / "in/CUB_200_2011/images/001.Awk/Awk_0002.jpg"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"Awk_0002.jpg is not a whole image; restore it"):
        build(options(tmp_path / "in", tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 30}, r"holds a build that differs in parameters \(see manifest.json there\); delete the folder"),
        ({"styles": ("candy",)}, "differs in domains, styles"),
        ({"size": 0}, "size is 0; it must be at least 1"),
        ({"jobs": 0}, "jobs is 0"),
        ({"device": "tpu9"}, "device tpu9 cannot be used"),
        ({"device": "meta"}, r"device meta cannot be used \(pictures are painted on cpu, cuda, mps\); give cpu, or"),
        ({"styles": ("candy", "Candy")}, "style 'Candy': give every style once"),
        ({"styles": ("natural",)}, "other than natural"),
        ({"styles": ("../x",)}, "by a name of letters"),
        (
            {"styles": ("monet",)},
            r"holds no monet.pth, only candy.pth, mosaic.pth, udnie.pth; name the file with sty",
        ),
        ({"weights": None}, "weights is None, which is not a folder; style candy is looked for there"),
        ({"cub": Path("nowhere")}, "nowhere is not CUB-200-2011"),
    ],
)
def test_bad_requests(cub_inputs: Path, cub_resized: BuildReport, change, message: str) -> None:
    before = tree_hash(cub_resized.folder)
    with pytest.raises(UserError, match=message):
        build(options(cub_inputs, cub_resized.folder.parent, **{"size": 24, "batch_size": 2, **change}))
    assert tree_hash(cub_resized.folder) == before


def test_weight_files_by_name(cub_inputs: Path, tmp_path: Path) -> None:
    torch.save(style_weights(7), tmp_path / "monet_nc16.pth")
    torch.save(style_weights(8), tmp_path / "other.pt")
    given = options(cub_inputs, tmp_path, weights=tmp_path, styles=("monet", f"mine={tmp_path / 'other.pt'}"))
    report = build(given)
    assert report.manifest["domains"] == ["Mine", "Monet", "Natural"]
    assert report.manifest["styles"]["Monet"]["file"] == "monet_nc16.pth"
    torch.save(style_weights(8), tmp_path / "monet_nc32.pth")
    with pytest.raises(UserError, match=r"holds 2 files for style monet \(monet_nc16.pth, monet_nc32.pth\); name the"):
        build(given)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, "the disk is full, .* could not be written; free some space, then give the same command again"),
        (errno.EROFS, r"cannot be written \(Read-only file system\); check its permissions or choose another folder"),
        (errno.EIO, r"could not be written \(Input/output error\); check the disk"),
    ],
)
@pytest.mark.parametrize("writer", [building, work])
def test_disks_that_fail(cub_inputs: Path, tmp_path: Path, cub_resized, monkeypatch, code, message, writer) -> None:
    written = []

    def failing(path, content):
        if len(written) == 3 or writer is building:
            raise OSError(code, os.strerror(code))
        written.append(path)
        write_atomic(path, content)

    given = options(cub_inputs, tmp_path, size=24, batch_size=2)
    with monkeypatch.context() as patch:
        patch.setattr(writer, "write_atomic", failing)
        with pytest.raises(UserError, match=message):
            build(given)
    build(given)
    assert tree_hash(tmp_path / "CUB_DG") == tree_hash(cub_resized.folder)


def test_folders_that_are_not_ours(cub_inputs: Path, tmp_path: Path) -> None:
    own, left = tmp_path / "CUB_DG/Candy/.notes.tmp", tmp_path / "CUB_DG/Candy/.draft.4711.0abc.tmp"
    own.parent.mkdir(parents=True)
    for file in (own, left):
        file.write_text("somebody's")
    with pytest.raises(UserError, match=r"holds Candy but no manifest.json, so no build made it; choose another"):
        build(options(cub_inputs, tmp_path))
    assert own.exists()
    assert left.exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file.* could not be written"):
        build(options(cub_inputs, tmp_path / "file"))


def test_what_a_killed_build_left_before_its_first_manifest(cub_inputs: Path, tmp_path: Path, cub_resized) -> None:
    (tmp_path / "CUB_DG").mkdir()
    (tmp_path / "CUB_DG/.manifest.json.4711.0abc.tmp").write_text("{")
    build(options(cub_inputs, tmp_path, size=24, batch_size=2))
    assert tree_hash(tmp_path / "CUB_DG") == tree_hash(cub_resized.folder)


def test_files_that_only_look_like_left_overs_stay(cub_inputs: Path, tmp_path: Path, cub_resized) -> None:
    shutil.copytree(cub_resized.folder, tmp_path / "CUB_DG")
    own = tmp_path / "CUB_DG/.notes.tmp"
    own.write_text("mine")
    build(options(cub_inputs, tmp_path, size=24, batch_size=2))
    assert own.exists()


def test_two_builders_at_once(cub_inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "CUB_DG").mkdir()
    with (
        file_lock(tmp_path / "CUB_DG"),
        pytest.raises(UserError, match=r"another build is writing to .*CUB_DG; wait for it or choose another folder"),
    ):
        build(options(cub_inputs, tmp_path))
