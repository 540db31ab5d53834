"""From a decoded image to the model's input, as DomainBed's image folders do it.

There are two halves. Workers do the first half per image; its uint8 result is a quarter as large as floats would be.
The training device does the second half per batch. Together they equal the torchvision transforms that DomainBed
composes (``Resize`` or ``RandomResizedCrop``, …, ``ToTensor``, ``Normalize``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch.utils.data import default_collate
from torchvision import transforms as tv

from sfmoe_dg.data.domains import Domain

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ImageTransform:
    """One domain's pre-processing.

    Attributes:
        augment: False: resize to ``size`` × ``size`` whatever the aspect ratio. True: crop 70–100 % of the area,
            flip, jitter colours by 0.3, turn 10 % grey; draws from torch's global CPU generator.
        size: height and width of the result in pixels.
        mean, std: per channel, of values in [0, 1]; ImageNet's unless the backbone was trained with others.
        crop: False: augment without cropping, resizing as for evaluation (DomainBed's Spawrious).
    """

    augment: bool = False
    size: int = 224
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    crop: bool = True

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """An RGB picture of any size to uint8 [3, size, size]."""
        array = np.array(_geometry_and_color(self.augment, self.size, self.crop)(image))
        return torch.from_numpy(array).permute(2, 0, 1)

    def read(self, domain: Domain, indices: np.ndarray, seeds: np.ndarray | None) -> torch.Tensor:
        """The workers' half: images in files to uint8 [B, 3, size, size]; each image draws from its own seed.

        Without seeds nothing is drawn (``augment`` is False). Channels are last in memory, as decoders deliver them;
        the device reorders them faster.
        """
        transform, images = _geometry_and_color(self.augment, self.size, self.crop), []
        with _same_generator():
            for position, index in enumerate(indices.tolist()):
                image = domain.image(index)
                if seeds is not None:
                    torch.default_generator.manual_seed(int(seeds[position]))
                images.append(torch.from_numpy(np.array(transform(image))))
        return stack_images(images)

    def finish(self, pixels: torch.Tensor, seeds: np.ndarray | None) -> torch.Tensor:
        """The device's half: the result of ``read`` to the model's input, float [B, 3, size, size]."""
        return self.normalize(pixels)

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 [..., 3, H, W] to the model's input, float of the same shape, on the same device."""
        mean, std = per_channel(self.mean, pixels.device), per_channel(self.std, pixels.device)
        floats = pixels.to(torch.float32, memory_format=torch.contiguous_format)
        return floats.div_(255).sub_(mean).div_(std)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        return self.normalize(self.pixels(image))


def stack_images(images: list[torch.Tensor]) -> torch.Tensor:
    """[H, W, 3] each to [B, 3, H, W] with the channels last in memory; in a worker, directly to shared memory."""
    pixels: torch.Tensor = default_collate(images)
    return pixels.permute(0, 3, 1, 2)


@contextmanager
def _same_generator() -> Iterator[None]:
    """Restore the state of torch's global CPU generator, from which torchvision draws, after the block.

    Inside, the generator is seeded by its own method: ``torch.manual_seed`` would also seed the GPUs' generators and
    so repeat the dropout of the step before.
    """
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


@lru_cache  # copied to the device once, not at every step
def per_channel(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    return torch.tensor(values, device=device).view(3, 1, 1)


@lru_cache
def _geometry_and_color(augment: bool, size: int, crop: bool) -> tv.Compose:
    if not augment:
        return tv.Compose([tv.Resize((size, size))])
    return tv.Compose(
        [
            tv.RandomResizedCrop(size, scale=(0.7, 1.0)) if crop else tv.Resize((size, size)),
            tv.RandomHorizontalFlip(),
            tv.ColorJitter(0.3, 0.3, 0.3, 0.3),
            tv.RandomGrayscale(),
        ]
    )
