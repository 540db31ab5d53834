"""From a decoded image to the model's input, as DomainBed's image folders do it.

Split in two, because the first half is done per image by workers and its uint8 result is a quarter as large to hand
over as the float that the second half makes of it, per batch, on the training device. Together they equal the
torchvision transforms (``Resize`` or ``RandomResizedCrop``, …, ``ToTensor``, ``Normalize``) that DomainBed composes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torchvision import transforms as tv

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
        return torch.from_numpy(array).permute(2, 0, 1).contiguous()

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 [..., 3, H, W] to the model's input, float of the same shape, on the same device."""
        mean, std = _per_channel(self.mean, pixels.device), _per_channel(self.std, pixels.device)
        return pixels.float().div_(255).sub_(mean).div_(std)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        return self.normalize(self.pixels(image))


@lru_cache  # copied to the device once, not at every step
def _per_channel(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
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
