"""CUB-DG from a miniature CUB: pictures, annotations that move along, resuming, and what is refused."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from cub_trees import ATTRIBUTES, CLASSES, IMAGES, PARTS, WIDTHS, photo, style_weights, write_cub, write_styles
from PIL import Image

from sfmoe_dg import records
from sfmoe_dg.data.cub_dg import build as building
from sfmoe_dg.data.cub_dg import work
from sfmoe_dg.data.cub_dg.build import BuildReport, build, verify
from sfmoe_dg.data.cub_dg.pictures import Header, Placement, load_picture, read_header
from sfmoe_dg.data.cub_dg.plan import BuildOptions
from sfmoe_dg.data.cub_dg.sheet import write_contact_sheet
from sfmoe_dg.data.cub_dg.table import read_table
from sfmoe_dg.data.style_transfer import load_style, stylise
from sfmoe_dg.errors import UserError

SCRIPT = Path(__file__).resolve().parents[2] / "datasets" / "cub_dg.py"
DOMAINS = ("Candy", "Mosaic", "Natural", "Udnie")


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cub_dg_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``CUB_200_2011`` and ``weights`` in miniature. Not to be changed."""
    root = tmp_path_factory.mktemp("inputs")
    write_cub(root)
    write_styles(root / "weights")
    return root


def options(inputs: Path, out: Path, **changes) -> BuildOptions:
    given = {"cub": inputs, "weights": inputs / "weights", "out": out, "jobs": 1, "device": "cpu", **changes}
    return BuildOptions(**given)


@pytest.fixture(scope="session")
def built(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> BuildReport:
    """At the pictures' own sizes. Not to be changed."""
    return build(options(inputs, tmp_path_factory.mktemp("built")))


@pytest.fixture(scope="session")
def resized(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> BuildReport:
    """Shorter side 24, two pictures a batch. Not to be changed."""
    return build(options(inputs, tmp_path_factory.mktemp("resized"), size=24, batch_size=2))


def tree_hash(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# ------------------------------------------------------------------------------------------------ pictures


def test_files(built: BuildReport) -> None:
    stylised = [f"{CLASSES[i // 2]}/{stem}.jpg" for i, (stem, *_) in enumerate(IMAGES)]
    natural = [*stylised[:4], "003.Coot/Coot_0001.png", stylised[5]]
    expected = {f"{domain}/{file}" for domain in DOMAINS for file in (natural if domain == "Natural" else stylised)}
    assert set(tree_hash(built.folder)) == expected | {"manifest.json", "annotations.parquet"}
    assert (built.made, built.total) == (24, 24)
    assert verify(built.folder) == []


def test_natural_pictures_are_copied_unless_something_must_change(inputs: Path, built: BuildReport, resized) -> None:
    for i, (stem, ending, size, mode, orientation) in enumerate(IMAGES):
        original = inputs / f"CUB_200_2011/images/{CLASSES[i // 2]}/{stem}{ending}"
        is_copied = mode == "RGB" and orientation == 1
        made = built.folder / f"Natural/{CLASSES[i // 2]}/{stem}{ending if is_copied else '.jpg'}"
        assert (made.read_bytes() == original.read_bytes()) == is_copied
        with Image.open(made) as image:
            assert image.mode == "RGB"
            assert image.size == (size if orientation == 1 else size[::-1])
            if not is_copied:
                assert not image.info.get("exif")
        upright = np.asarray(Image.open(made).convert("RGB")).astype(int)
        expected = load_picture(original, Placement.of(Header(size, mode, orientation), None)).astype(int)
        assert np.abs(upright - expected).mean() < 3
    assert built.manifest["counts"] == {"listed": 6, "built": 6, "missing": 0, "copied": 3, "not_rgb": 2, "turned": 1}
    assert resized.manifest["counts"]["copied"] == 0


def test_styles_are_those_of_their_networks(inputs: Path, built: BuildReport) -> None:
    picture = photo((33, 41), 5)  # decoded from JPEG in the build, hence the tolerance
    for domain in ("Candy", "Mosaic", "Udnie"):
        network = load_style(inputs / "weights" / f"{domain.lower()}.pth").network
        original = np.asarray(Image.open(inputs / "CUB_200_2011/images/003.Coot/Coot_0002.jpg"))
        assert np.abs(original.astype(int) - picture).mean() < 3
        made = np.asarray(Image.open(built.folder / f"{domain}/003.Coot/Coot_0002.jpg")).astype(int)
        assert np.abs(made - stylise(network, original[None])[0]).mean() < 4


def test_sizes_after_resizing(resized: BuildReport) -> None:
    table = read_table(resized.folder / "annotations.parquet")
    expected = {"Awk_0001": (32, 24), "Bunting_0002": (32, 24), "Coot_0001": (32, 24), "Coot_0002": (24, 30)}
    for file, size in zip(table.file, table.size, strict=True):
        with Image.open(resized.folder / file) as image:
            assert image.size == tuple(size)
        assert tuple(size) == expected.get(Path(file).stem, (32, 24))


# ------------------------------------------------------------------------------------------------ annotations


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("short_side", [None, 37, 150])
def test_parts_move_with_the_picture(tmp_path: Path, orientation: int, short_side: int | None) -> None:
    """A red dot at the part is found where the moved part says, after every turn and resize."""
    width, height, x, y = 90, 60, 70.5, 15.5
    pixels = np.full((height, width, 3), 40, np.uint8)
    pixels[13:18, 68:73] = (255, 40, 40)  # its middle is (70.5, 15.5)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "dot.png", exif=exif)
    header = read_header((tmp_path / "dot.png").read_bytes(), tmp_path / "dot.png")
    assert header == Header((width, height), "RGB", orientation)
    placement = Placement.of(header, short_side)
    picture = load_picture(tmp_path / "dot.png", placement)
    assert picture.shape == (placement.size[1], placement.size[0], 3)
    assert short_side is None or min(picture.shape[:2]) == short_side
    redness = np.clip(picture[..., 0].astype(float) - picture[..., 1], 0, None)
    rows, columns = np.mgrid[: picture.shape[0], : picture.shape[1]] + 0.5
    found = np.array([(columns * redness).sum(), (rows * redness).sum()]) / redness.sum()
    moved = placement.parts(np.array([[x, y, 1], [0, 0, 0]]))
    assert np.allclose(moved[0, :2], found, atol=0.1)
    assert np.isnan(moved[1, :2]).all()
    assert moved[:, 2].tolist() == [1, 0]
    box = placement.boxes(np.array([68, 13, 5, 5]))
    assert np.allclose(box[:2] + box[2:] / 2, found, atol=0.1)
    assert (box[2:] > 0).all()


def test_header_without_meaning(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 0
    Image.new("RGB", (4, 3)).save(tmp_path / "a.jpg", exif=exif)
    assert read_header((tmp_path / "a.jpg").read_bytes(), tmp_path / "a.jpg").orientation == 1
    with pytest.raises(UserError, match=r"a.jpg is not an image; restore it"):
        read_header(b"text", tmp_path / "a.jpg")


def test_table(built: BuildReport) -> None:
    table = read_table(built.folder / "annotations.parquet")
    assert (len(table), table.part_names, table.attribute_names) == (24, PARTS, ATTRIBUTES)
    assert table.domain == list(DOMAINS) * 6
    assert table.image_id.tolist() == [i for i in range(11, 17) for _ in DOMAINS]
    assert table.split == [("train", "test")[i % 2] for i in range(6) for _ in DOMAINS]
    assert table.class_name == [CLASSES[i // 2] for i in range(6) for _ in DOMAINS]
    assert table.sha256 == [tree_hash(built.folder)[file] for file in table.file]
    assert set(table.attribute_source) == {"class"}
    assert table.box[0].tolist() == [2, 3, 10, 8]
    assert table.parts[0, 0].tolist() == [1, 2, 1]
    # Image 14 is stored 30 × 40 and turned clockwise: (x, y) -> (40 - y, x); its part 1 lies at (2, 3).
    assert table.parts[12, 1].tolist() == [37, 2, 1]
    assert table.box[12].tolist() == [40 - 3 - 8, 2, 8, 10]
    for i in range(6):  # the same picture geometry in every domain
        for values in (table.size, table.box, table.parts, table.present):
            assert all(np.array_equal(values[4 * i], values[4 * i + k], equal_nan=True) for k in range(1, 4))


def test_table_after_resizing(built: BuildReport, resized: BuildReport) -> None:
    before, after = (read_table(report.folder / "annotations.parquet") for report in (built, resized))
    scale = after.size / before.size
    assert np.allclose(after.parts[..., :2], before.parts[..., :2] * scale[:, None], equal_nan=True)
    assert np.allclose(after.box, before.box * np.tile(scale, 2))


def test_manifest(inputs: Path, built: BuildReport) -> None:
    manifest = json.loads((built.folder / "manifest.json").read_text())
    assert manifest == built.manifest
    assert manifest["complete"] is True
    assert manifest["domains"] == list(DOMAINS)
    assert manifest["classes"] == list(CLASSES)
    weights = (inputs / "weights/candy.pth").read_bytes()
    assert manifest["styles"]["Candy"]["sha256"] == hashlib.sha256(weights).hexdigest()
    assert manifest["styles"]["Candy"]["widths"] == list(WIDTHS)
    assert manifest["images"]["003.Coot/Coot_0001"] == {
        "id": 15,
        "split": "train",
        "file": "003.Coot/Coot_0001.png",
        "sha256": hashlib.sha256((inputs / "CUB_200_2011/images/003.Coot/Coot_0001.png").read_bytes()).hexdigest(),
    }
    assert str(inputs) not in (built.folder / "manifest.json").read_text()  # no machine's paths


# ------------------------------------------------------------------------------------------------ the same bytes


def test_same_bytes_again(inputs: Path, tmp_path: Path, resized: BuildReport) -> None:
    again = build(options(inputs, tmp_path, size=24, batch_size=2))
    assert tree_hash(again.folder) == tree_hash(resized.folder)
    assert build(options(inputs, tmp_path, size=24, batch_size=2)).made == 0
    assert tree_hash(again.folder) == tree_hash(resized.folder)


def test_missing_and_damaged_files_are_made_again(inputs: Path, tmp_path: Path, resized: BuildReport) -> None:
    folder = tmp_path / "CUB_DG"
    shutil.copytree(resized.folder, folder)
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
    given = options(inputs, tmp_path, size=24, batch_size=2)
    with pytest.raises(UserError, match=r"Candy/001.Awk/new.jpg is no part of CUB-DG \(1 such files\); move it away"):
        build(given)
    (folder / "Candy/001.Awk/new.jpg").unlink()
    build(given)
    assert tree_hash(folder) == tree_hash(resized.folder)
    (folder / "annotations.parquet").write_bytes(b"PAR1")
    build(given)
    assert tree_hash(folder) == tree_hash(resized.folder)


class KilledError(BaseException):
    """Nothing in the builder may catch this and go on."""


@pytest.mark.parametrize("moment", range(0, 27, 3))
def test_interrupted_at_every_kind_of_moment(inputs: Path, tmp_path: Path, resized, monkeypatch, moment: int) -> None:
    """Dies instead of putting the moment-th file in its place: first manifest, 24 pictures, table, last manifest."""
    replace, calls = os.replace, iter(range(100))

    def dying(source, target):
        if next(calls) == moment:
            raise KilledError
        replace(source, target)

    given = options(inputs, tmp_path, size=24, batch_size=2)
    with monkeypatch.context() as patch:
        patch.setattr(records.os, "replace", dying)
        with pytest.raises(KilledError):
            build(given)
    build(given)
    assert tree_hash(tmp_path / "CUB_DG") == tree_hash(resized.folder)


def test_killed_at_random_moments(inputs: Path, tmp_path: Path, resized: BuildReport) -> None:
    """SIGKILL, which no code can answer, again and again until a build gets through."""
    given = options(inputs, tmp_path, size=24, batch_size=2)
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
    assert tree_hash(tmp_path / "CUB_DG") == tree_hash(resized.folder)


def test_killed_with_several_processes(inputs: Path, tmp_path: Path, resized: BuildReport) -> None:
    command = [sys.executable, str(SCRIPT), "--cub", str(inputs), "--weights", str(inputs / "weights"), "--jobs", "2"]
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
    assert tree_hash(tmp_path / "CUB_DG") == tree_hash(resized.folder)


# ------------------------------------------------------------------------------------------------ what is refused


def test_missing_images(inputs: Path, tmp_path: Path) -> None:
    shutil.copytree(inputs, tmp_path / "in")
    shutil.rmtree(tmp_path / "in/CUB_200_2011/images/002.Bunting")
    message = r"2 of the 6 images of .*images.txt are missing, the first is .*Bunting_0001.jpg; .* --allow_missing"
    with pytest.raises(UserError, match=message):
        build(options(tmp_path / "in", tmp_path))
    report = build(options(tmp_path / "in", tmp_path, allow_missing=True))
    assert report.manifest["counts"]["missing"] == 2
    assert report.manifest["classes"] == ["001.Awk", "003.Coot"]
    shutil.rmtree(tmp_path / "in/CUB_200_2011/images")
    with pytest.raises(UserError, match=r"6 of the 6 images .* there is nothing to build"):
        build(options(tmp_path / "in", tmp_path, allow_missing=True))


def test_damaged_image(inputs: Path, tmp_path: Path) -> None:
    shutil.copytree(inputs, tmp_path / "in")
    path = tmp_path / "in/CUB_200_2011/images/001.Awk/Awk_0002.jpg"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"Awk_0002.jpg is not a whole image; restore it"):
        build(options(tmp_path / "in", tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 30}, r"holds a build that differs in parameters \(see manifest.json there\); delete the folder"),
        ({"styles": ("candy",)}, "differs in domains, styles"),
        ({"size": 0}, "--size is 0; it must be at least 1"),
        ({"jobs": 0}, "--jobs is 0"),
        ({"device": "tpu9"}, "--device tpu9 cannot be used"),
        ({"styles": ("candy", "Candy")}, "style 'Candy': give every style once"),
        ({"styles": ("natural",)}, "other than natural"),
        ({"styles": ("../x",)}, "by a name of letters"),
        (
            {"styles": ("monet",)},
            r"holds no monet.pth, only candy.pth, mosaic.pth, udnie.pth; name the file with --sty",
        ),
        ({"weights": None}, "--weights None is not a folder; style candy is looked for there"),
        ({"cub": Path("nowhere")}, "nowhere is not CUB-200-2011"),
    ],
)
def test_bad_requests(inputs: Path, resized: BuildReport, change, message: str) -> None:
    before = tree_hash(resized.folder)
    with pytest.raises(UserError, match=message):
        build(options(inputs, resized.folder.parent, **{"size": 24, "batch_size": 2, **change}))
    assert tree_hash(resized.folder) == before


def test_weight_files_by_name(inputs: Path, tmp_path: Path) -> None:
    torch.save(style_weights(7), tmp_path / "monet_nc16.pth")
    torch.save(style_weights(8), tmp_path / "other.pt")
    given = options(inputs, tmp_path, weights=tmp_path, styles=("monet", f"mine={tmp_path / 'other.pt'}"))
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
        (errno.EROFS, r"cannot be written \(Read-only file system\); check its permissions or choose another --out"),
        (errno.EIO, r"could not be written \(Input/output error\); check the disk"),
    ],
)
@pytest.mark.parametrize("writer", [building, work])
def test_disks_that_fail(inputs: Path, tmp_path: Path, resized, monkeypatch, code, message, writer) -> None:
    written = []

    def failing(path, content):
        if len(written) == 3 or writer is building:
            raise OSError(code, os.strerror(code))
        written.append(path)
        records.write_atomic(path, content)

    given = options(inputs, tmp_path, size=24, batch_size=2)
    with monkeypatch.context() as patch:
        patch.setattr(writer, "write_atomic", failing)
        with pytest.raises(UserError, match=message):
            build(given)
    build(given)
    assert tree_hash(tmp_path / "CUB_DG") == tree_hash(resized.folder)


def test_folders_that_are_not_ours(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "CUB_DG/Candy").mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds Candy but no manifest.json, so no build made it; choose another --out"):
        build(options(inputs, tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file.* could not be written"):
        build(options(inputs, tmp_path / "file"))


def test_two_builders_at_once(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "CUB_DG").mkdir()
    with (
        building._only_builder(tmp_path / "CUB_DG"),
        pytest.raises(UserError, match=r"another build is writing to .*CUB_DG; wait for it or choose another --out"),
    ):
        build(options(inputs, tmp_path))


# ------------------------------------------------------------------------------------------------ the script


def test_script(inputs: Path, tmp_path: Path, capsys) -> None:
    arguments = ["--cub", str(inputs), "--weights", str(inputs / "weights"), "--out", str(tmp_path), "--jobs", "1"]
    main = script().main
    sheet = tmp_path / "sheet.png"
    assert main([*arguments, "--device", "cpu", "--contact_sheet", str(sheet)]) == 0
    shown = capsys.readouterr().out
    assert "24 pictures, 24 of them made now; 6 birds × 4 domains, 3 classes" in shown
    with Image.open(sheet) as image:
        assert image.height > 5 * 260
    assert main(["--out", str(tmp_path), "--verify"]) == 0
    (tmp_path / "CUB_DG/Udnie/001.Awk/Awk_0001.jpg").unlink()
    assert main(["--out", str(tmp_path), "--verify"]) == 1
    assert "PROBLEM Udnie/001.Awk/Awk_0001.jpg is missing" in capsys.readouterr().out
    assert main([*arguments, "--size", "0"]) == 2
    assert capsys.readouterr().err.endswith("cub_dg.py: error: --size is 0; it must be at least 1\n")


def test_contact_sheet_of_fewer_birds(built: BuildReport, tmp_path: Path) -> None:
    write_contact_sheet(built.folder, tmp_path / "sheet.png", num_birds=2, height=50)
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.height == 20 + 2 * 54
