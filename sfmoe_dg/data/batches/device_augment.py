"""DomainBed's augmentation on tensors, for the options images = "tensors" and "cached".

Workers crop and resize single pictures; the device changes the colours of a batch.

Each image draws its parameters on the CPU from its own seed, so batches are the same for any number of workers, and on
all devices up to rounding. The distributions are those of torchvision's ``RandomResizedCrop``
(0.7–1), ``RandomHorizontalFlip``, ``ColorJitter`` (0.3 four times, in random order) and ``RandomGrayscale`` (0.1),
which ``transforms.py`` runs on one picture at a time. The arithmetic differs: resizing by torch's kernel for uint8 (up
to 2 grey levels from Pillow's), colours in floats and not rounded after each change, hue not in 256 steps.

Legend: B images, H height, W width, S the side of the model's input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from sfmoe_dg.data.batches.cache import CachedDomain
from sfmoe_dg.data.batches.transforms import ImageTransform, per_channel, stack_images
from sfmoe_dg.data.domains import Domain

SCALE, RATIO = (0.7, 1.0), (3 / 4, 4 / 3)
STRENGTH = 0.3
GRAYSCALE = 0.1

_CROP_TRIES = 10
_CROP_DRAWS = 2 * _CROP_TRIES + 2
_COLOR_DRAWS = 10


@dataclass(frozen=True)
class TensorTransform(ImageTransform):
    """``ImageTransform`` for decoded or cached pixels: the same attributes, but the device changes the colours."""

    def read(self, domain: Domain, indices: np.ndarray, seeds: np.ndarray | None) -> torch.Tensor:
        pictures = [torch.from_numpy(_decoded(domain, index)) for index in indices.tolist()]
        sizes = np.array([picture.shape[:2] for picture in pictures])
        boxes = np.concatenate([np.zeros_like(sizes), sizes], axis=1)
        if seeds is not None and self.crop:
            boxes = crop_boxes(seeds, sizes)
        crops = [
            resize(picture[top : top + height, left : left + width], self.size)
            for picture, (top, left, height, width) in zip(pictures, boxes.tolist(), strict=True)
        ]
        return stack_images(crops)

    def finish(self, pixels: torch.Tensor, seeds: np.ndarray | None) -> torch.Tensor:
        if seeds is None:
            return self.normalize(pixels)
        with _one_thread() if pixels.device.type == "cpu" else nullcontext():
            return self._augmented(pixels, draw_changes(seeds))

    def _augmented(self, pixels: torch.Tensor, changes: Changes) -> torch.Tensor:
        mean, std = per_channel(self.mean, pixels.device), per_channel(self.std, pixels.device)
        result = torch.empty(pixels.shape, device=pixels.device)
        # On a CPU, one image at a time fits into the cache, which halves the time; a GPU is faster with whole batches.
        together = 1 if pixels.device.type == "cpu" else len(pixels)
        for start in range(0, len(pixels), together):
            part = slice(start, start + together)
            x = result[part].copy_(pixels[part]).div_(255)
            result[part] = change(x, changes[part]).sub_(mean).div_(std)
        return result


@contextmanager
def _one_thread() -> Iterator[None]:
    """Operations on one image are so short that threads wait for each other longer than they work, hundreds of times
    longer on a busy machine. Sums by one thread are also the same on every machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _decoded(domain: Domain, index: int) -> np.ndarray:
    """One picture, uint8 [H, W, 3]: from the cache if there is one, else decoded now."""
    return domain.pixels(index) if isinstance(domain, CachedDomain) else np.array(domain.image(index))


def resize(picture: torch.Tensor, size: int) -> torch.Tensor:
    """uint8 [H, W, 3] to [S, S, 3], whatever the aspect ratio, with antialiasing."""
    batch = picture.permute(2, 0, 1)[None]
    return F.interpolate(batch, (size, size), mode="bilinear", antialias=True)[0].permute(1, 2, 0)


def uniforms(seeds: np.ndarray, purpose: int, count: int) -> np.ndarray:
    """float64 [B, count] in [0, 1): each seed's random numbers, from place ``purpose · 2^32`` of its sequence on.

    SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), for all images
    together: a generator object per image would cost more than the crop.
    """
    places = np.arange(1, count + 1, dtype=np.uint64) + np.uint64(purpose << 32)
    z = seeds.astype(np.uint64)[:, None] + places * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53


def crop_boxes(seeds: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Top, left, height and width, int64 [B, 4], of a random crop of images of ``sizes`` [B, 2] (height, width).

    As ``RandomResizedCrop``: the first of ten tries that fits, else the middle at the nearest allowed aspect ratio.
    """
    drawn = uniforms(seeds, 0, _CROP_DRAWS)
    area = sizes.prod(axis=1)[:, None] * _between(SCALE, drawn[:, :_CROP_TRIES])
    ratio = np.exp(_between((math.log(RATIO[0]), math.log(RATIO[1])), drawn[:, _CROP_TRIES:-2]))
    tried = np.rint(np.sqrt([area / ratio, area * ratio])).astype(np.int64)  # [2, B, tries], height and width
    height_fits, width_fits = (tried > 0) & (tried <= sizes.T[:, :, None])
    fits = height_fits & width_fits
    found = tried[:, np.arange(len(seeds)), fits.argmax(axis=1)].T
    corner = np.floor((sizes - found + 1) * drawn[:, -2:]).astype(np.int64)
    middle = _middle(sizes)
    none_fits = ~fits.max(axis=1, keepdims=True)
    found = np.where(none_fits, middle, found)
    corner = np.where(none_fits, (sizes - middle) // 2, corner)
    return np.concatenate([corner, found], axis=1)


def _middle(sizes: np.ndarray) -> np.ndarray:
    """Height and width, [B, 2], of the largest box of an allowed aspect ratio."""
    height, width = sizes.T
    return np.stack(
        [
            np.where(width < RATIO[0] * height, np.rint(width / RATIO[0]), height),
            np.where(width > RATIO[1] * height, np.rint(height * RATIO[1]), width),
        ],
        axis=1,
    ).astype(np.int64)


def _between(bounds: tuple[float, float], drawn: np.ndarray) -> np.ndarray:
    return bounds[0] + (bounds[1] - bounds[0]) * drawn


@dataclass(frozen=True)
class Changes:
    """What happens to the colours of B images.

    Attributes:
        flip, gray: bool [B].
        order: int64 [B, 4], which of ``COLOR_CHANGES`` comes first, second, …
        amounts: float32 [B, 4], factors of brightness, contrast and saturation, and the shift of hue in circles.
    """

    flip: np.ndarray
    gray: np.ndarray
    order: np.ndarray
    amounts: np.ndarray

    def __getitem__(self, part: slice) -> Changes:
        return Changes(self.flip[part], self.gray[part], self.order[part], self.amounts[part])


def draw_changes(seeds: np.ndarray) -> Changes:
    """Parameters for every image, each from its own seed."""
    drawn = uniforms(seeds, 1, _COLOR_DRAWS)
    amounts = _between((-STRENGTH, STRENGTH), drawn[:, :4]) + np.array([1, 1, 1, 0])
    order = drawn[:, 4:8].argsort(axis=1)
    return Changes(drawn[:, 8] < 0.5, drawn[:, 9] < GRAYSCALE, order, amounts.astype(np.float32))


def change(x: torch.Tensor, changes: Changes) -> torch.Tensor:
    """Flip and change the colours of contiguous float [B, 3, H, W] in [0, 1]; ``x`` may be overwritten."""
    x = _change_rows(x, np.flatnonzero(changes.flip), lambda chosen, _: chosen.flip(-1))
    amounts = torch.from_numpy(changes.amounts).to(x.device, non_blocking=True)[:, :, None, None, None]
    for column in changes.order.T:
        for which in sorted(set(column.tolist())):
            x = _change_rows(x, np.flatnonzero(column == which), COLOR_CHANGES[which], amounts[:, which])
    return _change_rows(x, np.flatnonzero(changes.gray), lambda chosen, _: grayscale(chosen).repeat(1, 3, 1, 1))


Change = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""A function of pixels in [0, 1], float [B, 3, H, W], and amounts, [B, 1, 1, 1]."""


def _change_rows(
    x: torch.Tensor, rows: np.ndarray, function: Change, amounts: torch.Tensor | None = None
) -> torch.Tensor:
    """Apply ``function`` to some images. The CPU knows which ones, so it need not wait for the device."""
    if not len(rows):
        return x
    amounts = x.new_empty(len(x)) if amounts is None else amounts
    if len(rows) == len(x):
        return function(x, amounts)
    chosen = torch.from_numpy(rows).to(x.device, non_blocking=True)
    return x.index_copy_(0, chosen, function(x.index_select(0, chosen), amounts.index_select(0, chosen)))


def grayscale(x: torch.Tensor) -> torch.Tensor:
    """ITU-R 601 luma, [B, 1, H, W]."""
    red, green, blue = x.split(1, dim=1)
    return (red * 0.299).add_(green, alpha=0.587).add_(blue, alpha=0.114)


def adjust_brightness(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """0 is black, 1 the image itself."""
    return (x * factor).clamp_(0, 1)


def adjust_contrast(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """0 is the image's mean grey everywhere, 1 the image itself."""
    return torch.lerp(grayscale(x).mean((1, 2, 3), keepdim=True), x, factor).clamp_(0, 1)


def adjust_saturation(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """0 is the image in grey, 1 the image itself."""
    return torch.lerp(grayscale(x), x, factor).clamp_(0, 1)


def adjust_hue(x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Turn the hue of every pixel by ``shift`` circles; its largest and smallest channel keep their values.

    With a hue of 0 to 6 for red, yellow, green, cyan, blue, magenta and red again, each channel is a trapezium over
    the circle between those two values (Smith, "Color gamut transform pairs", SIGGRAPH 1978, in closed form).
    Comparisons, ``where`` and ``remainder`` take torch's CPU code ten times as long as ``sign``, ``lerp`` and ``frac``.
    """
    red, green, blue = x.split(1, dim=1)
    high = torch.maximum(torch.maximum(red, green), blue)
    low = torch.minimum(torch.minimum(red, green), blue)
    spread = high - low
    per_spread = spread.clamp_min(1e-12).reciprocal_()  # grey: all differences are 0, any hue will do
    below_red, below_green, below_blue = ((high - channel).mul_(per_spread) for channel in (red, green, blue))
    if_green, if_blue = (below_red - below_blue).add_(2), (below_green - below_red).add_(4)
    # The sign is 0 where a channel is the largest, else 1.
    hue = torch.lerp(below_blue - below_green, torch.lerp(if_green, if_blue, below_green.sign()), below_red.sign())
    hue = hue.div_(6).add_(shift + 1).frac_().mul_(6)
    shares = (hue - 3).abs_().sub_(1), (hue - 2).abs_().neg_().add_(2), (hue - 4).abs_().neg_().add_(2)
    return torch.cat([torch.addcmul(low, share.clamp_(0, 1), spread) for share in shares], dim=1)


COLOR_CHANGES: tuple[Change, ...] = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
