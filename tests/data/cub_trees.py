"""A miniature CUB-200-2011 and random style weights of small width, made on the spot, and builds of CUB-DG."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sfmoe_dg.data.cub_dg.plan import BuildOptions
from sfmoe_dg.data.cub_dg.styles import TransformerNet

SCRIPT = Path(__file__).resolve().parents[2] / "datasets" / "cub_dg.py"

CLASSES = ("001.Awk", "002.Bunting", "003.Coot")
PARTS = ("back", "beak", "belly", "breast", "crown", "forehead", "left eye", "left leg", "left wing", "nape")
PARTS += ("right eye", "right leg", "right wing", "tail", "throat")
ATTRIBUTES = ("has_bill_shape::dagger", "has_bill_shape::hooked", "has_wing_color::blue")
WIDTHS = (2, 4, 3, 3, 2)

# Stem, ending, width and height as stored, mode, EXIF orientation. Sizes repeat so that batches form.
IMAGES = (
    ("Awk_0001", ".jpg", (40, 30), "RGB", 1),
    ("Awk_0002", ".jpg", (40, 30), "L", 1),
    ("Bunting_0001", ".jpg", (40, 30), "CMYK", 1),
    ("Bunting_0002", ".jpg", (30, 40), "RGB", 6),
    ("Coot_0001", ".png", (20, 15), "RGB", 1),
    ("Coot_0002", ".jpg", (33, 41), "RGB", 1),
)


def photo(size: tuple[int, int], seed: int) -> np.ndarray:
    """A smooth uint8 picture [H, W, 3], so that JPEG hardly changes it."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (3 + c + seed % 3) + seed) + np.cos(y / (4 + c)) for c in range(3)]
    return (np.stack(waves, axis=-1) * 50 + 127).astype(np.uint8)


def write_photo(path: Path, pixels: np.ndarray, mode: str = "RGB", orientation: int = 1) -> None:
    exif = Image.Exif()
    if orientation != 1:
        exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path, exif=exif)


def write_lines(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def write_cub(root: Path) -> Path:
    """Six images of three classes with ids 11, 12, …; the second of every class is the official test image.

    The box of image i is (2, 3, 10, 8); its part p lies at (p + 1, p + 2) and is visible if p + i is even.
    """
    cub = root / "CUB_200_2011"
    ids = [11 + i for i in range(len(IMAGES))]
    paths = [f"{CLASSES[i // 2]}/{stem}{ending}" for i, (stem, ending, *_) in enumerate(IMAGES)]
    for i, (_, _, size, mode, orientation) in enumerate(IMAGES):
        write_photo(cub / "images" / paths[i], photo(size, i), mode, orientation)
    write_lines(cub / "images.txt", [f"{id_} {path}" for id_, path in zip(ids, paths, strict=True)])
    write_lines(cub / "classes.txt", [f"{i} {name}" for i, name in enumerate(CLASSES, 1)])
    write_lines(cub / "image_class_labels.txt", [f"{id_} {i // 2 + 1}" for i, id_ in enumerate(ids)])
    write_lines(cub / "train_test_split.txt", [f"{id_} {1 - i % 2}" for i, id_ in enumerate(ids)])
    write_lines(cub / "bounding_boxes.txt", [f"{id_} 2.0 3.0 10.0 8.0" for id_ in ids])
    write_lines(cub / "parts/parts.txt", [f"{p} {name}" for p, name in enumerate(PARTS, 1)])
    places = [
        f"{id_} {p + 1} {p + 1}.0 {p + 2}.0 1" if (p + i) % 2 == 0 else f"{id_} {p + 1} 0.0 0.0 0"
        for i, id_ in enumerate(ids)
        for p in range(len(PARTS))
    ]
    write_lines(cub / "parts/part_locs.txt", places)
    write_lines(cub / "attributes/attributes.txt", [f"{a} {name}" for a, name in enumerate(ATTRIBUTES, 1)])
    table = ["0.0 50.0 100.0", "25.0 0.0 2.5", "0.0 0.0 75.0"]
    write_lines(cub / "attributes/class_attribute_labels_continuous.txt", table)
    return cub


def style_weights(seed: int, widths: tuple[int, int, int, int, int] = WIDTHS) -> dict[str, torch.Tensor]:
    """The weights of a random network whose output covers the range of pixel values."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        weights = dict(TransformerNet(widths).state_dict())
    weights["deconv3.conv2d.weight"] = weights["deconv3.conv2d.weight"] * 60
    weights["deconv3.conv2d.bias"] = torch.full((3,), 127.0)
    return weights


def write_styles(folder: Path, names: tuple[str, ...] = ("candy", "mosaic", "udnie")) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        torch.save(style_weights(seed), folder / f"{name}.pth")
    return folder


def options(inputs: Path, out: Path, **changes) -> BuildOptions:
    """The options of a build on the CPU, in one process, from the fixture ``cub_inputs``."""
    given = {"cub": inputs, "weights": inputs / "weights", "out": out, "jobs": 1, "device": "cpu", **changes}
    return BuildOptions(**given)


def tree_hash(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
