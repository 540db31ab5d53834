"""StyledDigits: handwritten digits drawn in four styles, a data set that needs no download.

It is a small version of CUB-DG (Natural, Candy, Mosaic, Udnie): every object occurs in every domain, with the same
shape and another appearance. The objects are the 1,797 digits of 8×8 pixels that come with scikit-learn (Alpaydin and
Kaynak 1998), enlarged smoothly to 32×32.

========  =========================================  ============================
style     foreground                                 background
========  =========================================  ============================
chalk     pale, grainy strokes                       dusty dark board
ink       dark strokes with soft edges               light paper with fibres
mosaic    3×3-pixel tiles with joints, light         tiles of another hue, dark
          on dark in half of the pictures            on light in the other half
neon      bright outlines around a dimmer filling    nearly black, tinted
========  =========================================  ============================

All arithmetic is on integers, and textures come from the raw output of generators keyed by (style, digit), so the
pictures have the same bits on every platform and with every version of NumPy.

Legend: N digits, H = W = 32 pixels.
"""

from __future__ import annotations

import gzip
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from sfmoe_dg.data.catalog import DatasetFacts
from sfmoe_dg.data.domains import DomainDataset, InMemoryDomain
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.seeds import generator

SIZE = 32
HALF_INK = 100
"""A pixel with at least this much ink, of 255, belongs to the stroke."""

_PLANE = SIZE * SIZE
_DRAWN_TOGETHER = 64
"""Digits drawn at a time: few, so that arrays stay in the processor's cache. The number changes no picture."""


def read(entry: DatasetFacts, data_dir: str | None, on_bad_image: str) -> DomainDataset:
    """All digits in all styles: 4 × 1,797 images, scaled to [-1, 1], with the digit's index as identity."""
    ink, labels = digits()
    domains = []
    for name in entry.domains:
        pictures = torch.from_numpy(draw(name, ink)).permute(0, 3, 1, 2).contiguous()
        domains.append(InMemoryDomain(name, pictures, labels, np.arange(len(labels)), mean=0.5, std=0.5))
    return DomainDataset(
        name=entry.name,
        domains=tuple(domains),
        input_shape=entry.input_shape,
        class_names=tuple("0123456789"),
        labels=entry.labels,
    )


@lru_cache(maxsize=1)
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Amount of ink, uint8 [N, 32, 32], and class, int64 [N], of every digit. Both are read-only.

    Raises:
        UserError: if scikit-learn is not installed.
    """
    found = _read_table()
    ink = enlarge(found[:, :-1].reshape(-1, 8, 8))
    labels = found[:, -1].copy()
    ink.flags.writeable = labels.flags.writeable = False
    return ink, labels


def _read_table() -> np.ndarray:
    """Scikit-learn's file of the digits, int64 [N, 65]: 64 pixels, row by row, and the class.

    The file is read as it is, because importing scikit-learn takes longer than a short run's training.
    """
    spec = find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise UserError("StyledDigits draws digits that come with scikit-learn, which is not installed here")
    path = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    with gzip.open(path, "rt", encoding="ascii") as lines:
        return np.loadtxt(lines, delimiter=",", dtype=np.int64)


def enlarge(small: np.ndarray) -> np.ndarray:
    """int64 [N, 8, 8] of 0 to 16, with one empty pixel around it, to uint8 [N, 32, 32], by Catmull-Rom splines.

    Pixel i of the result lies at (10 i - 11) / 32 in the padded picture, so the four weights of each pixel are whole
    multiples of 2^-16. Nothing is rounded before the last step: sums stay below 2^53, where floats are exact. Floats
    are used because their matrix products are fast.
    """
    weights = np.zeros((SIZE, 10))
    for i in range(SIZE):
        whole, t = divmod(10 * i - 11, 32)
        spline = (
            -1024 * t + 64 * t**2 - t**3,
            65536 - 160 * t**2 + 3 * t**3,
            1024 * t + 128 * t**2 - 3 * t**3,
            -32 * t**2 + t**3,
        )
        for offset, weight in enumerate(spline, start=-1):
            if 0 <= whole + offset < 10:
                weights[i, whole + offset] = weight
    padded = np.pad(small.astype(np.float64), ((0, 0), (1, 1), (1, 1)))
    scaled = (weights @ padded @ weights.T).astype(np.int64)  # ink × 2^32
    return np.clip((scaled * 255) >> 36, 0, 255).astype(np.uint8)


def draw(style: str, ink: np.ndarray) -> np.ndarray:
    """Ink, uint8 [N, 32, 32], of digits 0 to N-1 to pictures, uint8 [N, 32, 32, 3]."""
    pictures = np.empty((*ink.shape, 3), dtype=np.uint8)
    for first in range(0, len(ink), _DRAWN_TOGETHER):
        part = slice(first, first + _DRAWN_TOGETHER)
        pictures[part] = _draw(style, ink[part], first)
    return pictures


def _draw(style: str, ink: np.ndarray, first: int) -> np.ndarray:
    """Pictures of the digits with the numbers ``first``, ``first`` + 1, …"""
    words = 2 * _PLANE // 8 + 1  # of 8 bytes: two planes of noise and 8 scalars
    indices = range(first, first + len(ink))
    raw = [generator("StyledDigits", style, index).bit_generator.random_raw(words) for index in indices]
    noise = np.array(raw, dtype="<u8").view(np.uint8).reshape(len(ink), -1).astype(np.int32)
    planes = noise[:, : 2 * _PLANE].reshape(-1, 2, SIZE, SIZE)
    picture = STYLES[style](ink.astype(np.int32), planes, noise[:, 2 * _PLANE :])
    return np.clip(picture, 0, 255)


def _chalk(ink: np.ndarray, planes: np.ndarray, scalars: np.ndarray) -> np.ndarray:
    boards = _pick([(38, 62, 50), (40, 42, 48), (34, 44, 70), (62, 50, 42)], scalars[:, 0])
    chalks = _pick([(240, 240, 232), (244, 232, 150), (246, 182, 190), (176, 214, 246)], scalars[:, 1])
    dust = (_blur(planes[:, 0], 2) - 128)[..., None] // 2
    grain = np.where(planes[:, 1] < 70, 120, 240)
    return _mix(boards + dust, chalks, ink * grain // 255)


def _ink(ink: np.ndarray, planes: np.ndarray, scalars: np.ndarray) -> np.ndarray:
    papers = _pick([(246, 240, 222), (250, 250, 246), (226, 214, 186), (232, 240, 244)], scalars[:, 0])
    inks = _pick([(28, 26, 30), (24, 40, 104), (84, 48, 24), (110, 22, 34)], scalars[:, 1])
    fibers = (_smooth(planes[:, 0], 2, axis=2) - 128)[..., None] // 3
    pooled = (_blur(planes[:, 1], 2) - 128)[..., None]
    return _mix(papers + fibers, inks + pooled, np.clip((ink - 48) * 2, 0, 255))


def _mosaic(ink: np.ndarray, planes: np.ndarray, scalars: np.ndarray) -> np.ndarray:
    dark = _pick([(120, 30, 30), (16, 72, 92), (46, 38, 108), (38, 78, 38)], scalars[:, 0])
    light = _pick([(242, 204, 96), (240, 228, 206), (176, 226, 220), (246, 190, 164)], scalars[:, 1])
    swap = (scalars[:, 2] < 128)[:, None, None, None]
    tone = ((_tiled(planes[:, 0], pixel=0) - 128) // 4)[..., None]
    cover = np.clip((_tiled(ink) - 64) * 2, 0, 255)
    tiles = _mix(np.where(swap, light, dark), np.where(swap, dark, light), cover) + tone
    row, column = np.indices((SIZE, SIZE))
    is_joint = ((row % _TILE == 0) | (column % _TILE == 0))[None, :, :, None]
    mortar = 90 + (scalars[:, 3] // 4)[:, None, None, None]
    return np.where(is_joint, (2 * tiles + mortar) // 3, tiles)


def _neon(ink: np.ndarray, planes: np.ndarray, scalars: np.ndarray) -> np.ndarray:
    nights = _pick([(18, 10, 34), (8, 14, 36), (26, 8, 20), (6, 24, 28)], scalars[:, 0])
    tubes = _pick([(255, 60, 190), (50, 230, 255), (150, 255, 70), (255, 150, 40)], scalars[:, 1])
    inside = ink >= HALF_INK
    outline = (_grow(inside) & ~inside).astype(np.int32) * 255
    glow = np.maximum(_blur(outline, 2) // 2, ink * 3 // 4)
    flicker = 215 + planes[:, 1] // 7
    return _mix(nights + planes[:, 0][..., None] // 16, tubes, np.maximum(outline * flicker // 255, glow))


STYLES = {"chalk": _chalk, "ink": _ink, "mosaic": _mosaic, "neon": _neon}
"""Functions of ink [N, H, W] and of noise, planes [N, 2, H, W] and scalars [N, 8], to colours [N, H, W, 3]; all are
integers from 0 to 255 (colours a little beyond)."""

_TILE = 3


def _pick(colors: list[tuple[int, int, int]], which: np.ndarray) -> np.ndarray:
    """One colour per image, [N, 1, 1, 3]."""
    return np.array(colors, dtype=np.int32)[which % len(colors)][:, None, None, :]


def _mix(background: np.ndarray, foreground: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """``cover`` [N, H, W] from 0, background only, to 255, foreground only."""
    mixed = (foreground - background) * cover[..., None]
    mixed //= 255  # in place: new memory costs more time than the division
    mixed += background
    return mixed


def _smooth(plane: np.ndarray, radius: int, axis: int) -> np.ndarray:
    """Mean over 2 · radius + 1 pixels along one axis; edges repeat."""
    pad = [(0, 0)] * 3
    pad[axis] = (radius, radius)
    padded = np.pad(plane, pad, mode="edge")
    moved = np.moveaxis(padded, axis, 0)
    total = np.zeros_like(plane)
    for offset in range(2 * radius + 1):
        total += np.moveaxis(moved[offset : offset + plane.shape[axis]], 0, axis)
    return total // (2 * radius + 1)


def _blur(plane: np.ndarray, radius: int) -> np.ndarray:
    return _smooth(_smooth(plane, radius, axis=1), radius, axis=2)


def _grow(mask: np.ndarray) -> np.ndarray:
    """The mask and its four neighbours' places."""
    padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
    return (
        padded[:, 1:-1, 1:-1] | padded[:, :-2, 1:-1] | padded[:, 2:, 1:-1] | padded[:, 1:-1, :-2] | padded[:, 1:-1, 2:]
    )


def _tiled(plane: np.ndarray, pixel: int | None = None) -> np.ndarray:
    """Every tile filled with its mean, or with one of its pixels (the tiles at the lower and right edge are cut)."""
    count = -(-SIZE // _TILE)
    rest = count * _TILE - SIZE
    padded = np.pad(plane, ((0, 0), (0, rest), (0, rest)), mode="edge")
    tiles = padded.reshape(len(plane), count, _TILE, count, _TILE)
    values = tiles.sum(axis=(2, 4), dtype=plane.dtype) // _TILE**2 if pixel is None else tiles[:, :, pixel, :, pixel]
    return values.repeat(_TILE, axis=1).repeat(_TILE, axis=2)[:, :SIZE, :SIZE]
