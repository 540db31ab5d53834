"""How one picture of CUB becomes one of CUB-DG, and how the points and boxes on it move with it.

Coordinates are continuous: the picture covers [0, width] × [0, height], the middle of the top left pixel is (½, ½).
CUB's annotations are whole numbers, so they are exact to a pixel at best.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from sfmoe_dg.data.sets.image_folder import BadImageError, load_rgb
from sfmoe_dg.foundation.errors import UserError

JPEG_OPTIONS = {"quality": 95, "subsampling": 0, "optimize": False, "progressive": False}
"""How pictures are encoded. Colours have full resolution, since the styles' strokes are a few pixels wide."""

_ORIENTATION_TAG = 0x0112

_TURNS: dict[int, tuple[Image.Transpose, bool, bool, bool]] = {
    2: (Image.Transpose.FLIP_LEFT_RIGHT, False, True, False),
    3: (Image.Transpose.ROTATE_180, False, True, True),
    4: (Image.Transpose.FLIP_TOP_BOTTOM, False, False, True),
    5: (Image.Transpose.TRANSPOSE, True, False, False),
    6: (Image.Transpose.ROTATE_270, True, True, False),
    7: (Image.Transpose.TRANSVERSE, True, True, True),
    8: (Image.Transpose.ROTATE_90, True, False, True),
}
"""EXIF orientation to Pillow's turn, and to the same turn of coordinates: swap x and y? mirror x? mirror y?"""


@dataclass(frozen=True)
class Header:
    """What a file's header says about its picture: width and height as stored, Pillow's mode,
    EXIF orientation (1: upright; 50 of CUB's first 323 images carry a 0, which means nothing and is read as 1)."""

    size: tuple[int, int]
    mode: str
    orientation: int


def read_header(content: bytes, path: Path) -> Header:
    """Raises UserError, naming ``path``, if ``content`` is not an image."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            orientation = image.getexif().get(_ORIENTATION_TAG, 1)
            return Header(image.size, image.mode, orientation if orientation in _TURNS else 1)
    except Exception:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, …
        raise UserError(f"{path} is not an image; restore it from the archive of CUB-200-2011") from None


@dataclass(frozen=True)
class Placement:
    """How a stored picture becomes the one in CUB-DG: turned as its EXIF orientation says, then resized.

    Attributes:
        stored: width and height in CUB.
        orientation: EXIF's 1 to 8.
        size: width and height in CUB-DG.
    """

    stored: tuple[int, int]
    orientation: int
    size: tuple[int, int]

    @classmethod
    def of(cls, header: Header, short_side: int | None) -> Placement:
        """``short_side``: what the shorter side becomes, the aspect ratio kept; None: the size stays."""
        width, height = cls(header.size, header.orientation, (0, 0)).upright
        if short_side is not None:
            shorter = min(width, height)
            # Whole numbers: rounding half up, the same on every machine.
            width = max(1, (2 * width * short_side + shorter) // (2 * shorter))
            height = max(1, (2 * height * short_side + shorter) // (2 * shorter))
        return cls(header.size, header.orientation, (width, height))

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height after the turn."""
        width, height = self.stored
        swapped = self.orientation in _TURNS and _TURNS[self.orientation][1]
        return (height, width) if swapped else (width, height)

    def picture(self, image: Image.Image) -> Image.Image:
        """The stored picture, turned and resized by Lanczos' filter, which smooths when it shrinks."""
        if self.orientation in _TURNS:
            image = image.transpose(_TURNS[self.orientation][0])
        return image if image.size == self.size else image.resize(self.size, Image.Resampling.LANCZOS)

    def points(self, points: np.ndarray) -> np.ndarray:
        """Points [..., 2] (x, y) of the stored picture, moved to their places in the resulting picture; float64."""
        moved = np.array(points, dtype=np.float64)
        width, height = self.upright
        if self.orientation in _TURNS:
            _, swap, mirror_x, mirror_y = _TURNS[self.orientation]
            if swap:
                moved = moved[..., ::-1].copy()
            if mirror_x:
                moved[..., 0] = width - moved[..., 0]
            if mirror_y:
                moved[..., 1] = height - moved[..., 1]
        return moved * (self.size[0] / width, self.size[1] / height)

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes [..., 4] (x, y, width, height), moved likewise."""
        boxes = np.asarray(boxes, dtype=np.float64)
        corners = np.stack([self.points(boxes[..., :2]), self.points(boxes[..., :2] + boxes[..., 2:])])
        low, high = corners.min(axis=0), corners.max(axis=0)
        return np.concatenate([low, high - low], axis=-1)

    def parts(self, parts: np.ndarray) -> np.ndarray:
        """Parts [..., 3] (x, y, visible), moved likewise; invisible ones become NaN, NaN, 0."""
        visible = parts[..., 2:] > 0
        return np.concatenate([np.where(visible, self.points(parts[..., :2]), np.nan), visible], axis=-1)


def load_picture(path: Path, placement: Placement) -> np.ndarray:
    """The placed picture, uint8 [H, W, 3]; grey, CMYK and palette pictures become RGB.

    Raises:
        UserError: if the file cannot be read or does not decode as a whole.
    """
    try:
        image = load_rgb(str(path))
    except BadImageError:
        raise UserError(f"{path} is not a whole image; restore it from the archive of CUB-200-2011") from None
    return np.asarray(placement.picture(image))


def encode_jpeg(picture_HWC: np.ndarray) -> bytes:
    """uint8 [H, W, 3] as a JPEG file: the same bytes for the same pixels and version of Pillow."""
    stream = io.BytesIO()
    Image.fromarray(picture_HWC).save(stream, "JPEG", **JPEG_OPTIONS)
    return stream.getvalue()
