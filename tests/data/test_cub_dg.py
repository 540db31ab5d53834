"""The content of a CUB-DG built from a miniature CUB: pictures, transformed annotations, the script's report."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from cub_trees import ATTRIBUTES, CLASSES, IMAGES, PARTS, SCRIPT, WIDTHS, photo, tree_hash
from PIL import Image

from sfmoe_dg.data.cub_dg.build import BuildReport, verify
from sfmoe_dg.data.cub_dg.pictures import Header, Placement, load_picture, read_header
from sfmoe_dg.data.cub_dg.sheet import write_contact_sheet
from sfmoe_dg.data.cub_dg.styles import load_style, stylise
from sfmoe_dg.data.cub_dg.table import read_table
from sfmoe_dg.foundation.errors import UserError

DOMAINS = ("Candy", "Mosaic", "Natural", "Udnie")


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cub_dg_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ------------------------------------------------------------------------------------------------ pictures


def test_files(cub_built: BuildReport) -> None:
    stylised = [f"{CLASSES[i // 2]}/{stem}.jpg" for i, (stem, *_) in enumerate(IMAGES)]
    natural = [*stylised[:4], "003.Coot/Coot_0001.png", stylised[5]]
    expected = {f"{domain}/{file}" for domain in DOMAINS for file in (natural if domain == "Natural" else stylised)}
    assert set(tree_hash(cub_built.folder)) == expected | {"manifest.json", "annotations.parquet"}
    assert (cub_built.made, cub_built.total) == (24, 24)
    assert verify(cub_built.folder) == []


def test_natural_pictures_are_copied_unless_something_must_change(
    cub_inputs: Path, cub_built: BuildReport, cub_resized
) -> None:
    for i, (stem, ending, size, mode, orientation) in enumerate(IMAGES):
        original = cub_inputs / f"CUB_200_2011/images/{CLASSES[i // 2]}/{stem}{ending}"
        is_copied = mode == "RGB" and orientation == 1
        made = cub_built.folder / f"Natural/{CLASSES[i // 2]}/{stem}{ending if is_copied else '.jpg'}"
        assert (made.read_bytes() == original.read_bytes()) == is_copied
        with Image.open(made) as image:
            assert image.mode == "RGB"
            assert image.size == (size if orientation == 1 else size[::-1])
            if not is_copied:
                assert not image.info.get("exif")
        upright = np.asarray(Image.open(made).convert("RGB")).astype(int)
        expected = load_picture(original, Placement.of(Header(size, mode, orientation), None)).astype(int)
        assert np.abs(upright - expected).mean() < 3
    assert cub_built.manifest["counts"] == {
        "listed": 6,
        "built": 6,
        "missing": 0,
        "copied": 3,
        "not_rgb": 2,
        "turned": 1,
    }
    assert cub_resized.manifest["counts"]["copied"] == 0


def test_styles_are_those_of_their_networks(cub_inputs: Path, cub_built: BuildReport) -> None:
    picture = photo((33, 41), 5)  # decoded from JPEG in the build, hence the tolerance
    for domain in ("Candy", "Mosaic", "Udnie"):
        network = load_style(cub_inputs / "weights" / f"{domain.lower()}.pth").network
        original = np.asarray(Image.open(cub_inputs / "CUB_200_2011/images/003.Coot/Coot_0002.jpg"))
        assert np.abs(original.astype(int) - picture).mean() < 3
        made = np.asarray(Image.open(cub_built.folder / f"{domain}/003.Coot/Coot_0002.jpg")).astype(int)
        assert np.abs(made - stylise(network, original[None])[0]).mean() < 4


def test_sizes_after_resizing(cub_resized: BuildReport) -> None:
    table = read_table(cub_resized.folder / "annotations.parquet")
    expected = {"Awk_0001": (32, 24), "Bunting_0002": (32, 24), "Coot_0001": (32, 24), "Coot_0002": (24, 30)}
    for file, size in zip(table.file, table.size, strict=True):
        with Image.open(cub_resized.folder / file) as image:
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


def test_table(cub_built: BuildReport) -> None:
    table = read_table(cub_built.folder / "annotations.parquet")
    assert (len(table), table.part_names, table.attribute_names) == (24, PARTS, ATTRIBUTES)
    assert table.domain == list(DOMAINS) * 6
    assert table.image_id.tolist() == [i for i in range(11, 17) for _ in DOMAINS]
    assert table.split == [("train", "test")[i % 2] for i in range(6) for _ in DOMAINS]
    assert table.class_name == [CLASSES[i // 2] for i in range(6) for _ in DOMAINS]
    assert table.sha256 == [tree_hash(cub_built.folder)[file] for file in table.file]
    assert set(table.attribute_source) == {"class"}
    assert table.box[0].tolist() == [2, 3, 10, 8]
    assert table.parts[0, 0].tolist() == [1, 2, 1]
    # Image 14 is stored 30 × 40 and turned clockwise: (x, y) -> (40 - y, x); its part 1 lies at (2, 3).
    assert table.parts[12, 1].tolist() == [37, 2, 1]
    assert table.box[12].tolist() == [40 - 3 - 8, 2, 8, 10]
    for i in range(6):  # the same picture geometry in every domain
        for values in (table.size, table.box, table.parts, table.present):
            assert all(np.array_equal(values[4 * i], values[4 * i + k], equal_nan=True) for k in range(1, 4))


def test_table_after_resizing(cub_built: BuildReport, cub_resized: BuildReport) -> None:
    before, after = (read_table(report.folder / "annotations.parquet") for report in (cub_built, cub_resized))
    scale = after.size / before.size
    assert np.allclose(after.parts[..., :2], before.parts[..., :2] * scale[:, None], equal_nan=True)
    assert np.allclose(after.box, before.box * np.tile(scale, 2))


def test_manifest(cub_inputs: Path, cub_built: BuildReport) -> None:
    manifest = json.loads((cub_built.folder / "manifest.json").read_text())
    assert manifest == cub_built.manifest
    assert manifest["complete"] is True
    assert manifest["domains"] == list(DOMAINS)
    assert manifest["classes"] == list(CLASSES)
    weights = (cub_inputs / "weights/candy.pth").read_bytes()
    assert manifest["styles"]["Candy"]["sha256"] == hashlib.sha256(weights).hexdigest()
    assert manifest["styles"]["Candy"]["widths"] == list(WIDTHS)
    assert manifest["images"]["003.Coot/Coot_0001"] == {
        "id": 15,
        "split": "train",
        "file": "003.Coot/Coot_0001.png",
        "sha256": hashlib.sha256((cub_inputs / "CUB_200_2011/images/003.Coot/Coot_0001.png").read_bytes()).hexdigest(),
    }
    assert str(cub_inputs) not in (cub_built.folder / "manifest.json").read_text()  # no machine's paths


# ------------------------------------------------------------------------------------------------ the script


def test_script(cub_inputs: Path, tmp_path: Path, capsys) -> None:
    arguments = [
        "--cub",
        str(cub_inputs),
        "--weights",
        str(cub_inputs / "weights"),
        "--out",
        str(tmp_path),
        "--jobs",
        "1",
    ]
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


def test_contact_sheet_of_fewer_birds(cub_built: BuildReport, tmp_path: Path) -> None:
    write_contact_sheet(cub_built.folder, tmp_path / "sheet.png", num_birds=2, height=50)
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.height == 20 + 2 * 54
