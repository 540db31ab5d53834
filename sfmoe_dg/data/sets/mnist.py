"""ColoredMNIST (Arjovsky et al. 2019) and RotatedMNIST (Ghifary et al. 2015) as DomainBed builds them from MNIST.

Both draw the order of the digits from torch's global generator, and ColoredMNIST also label noise and colours. If they
are built directly after ``seed_everything(seed)``, they are DomainBed's data for that seed, bit for bit.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.datasets import MNIST

from sfmoe_dg.data.catalog import DatasetFacts
from sfmoe_dg.data.domains import DomainDataset, InMemoryDomain
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.locks import file_lock

FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))

LABEL_NOISE = 0.25
COLOR_FLIPS = {"+90%": 0.1, "+80%": 0.2, "-90%": 0.9}
"""How often the colour contradicts the (noisy) label, per domain."""

Make = Callable[[str, torch.Tensor, torch.Tensor], InMemoryDomain]


def read_colored(entry: DatasetFacts, data_dir: str, on_bad_image: str) -> DomainDataset:
    """Red or green digits, with the label "below 5". In training, the colour predicts the label better than the shape.

    Raises:
        UserError: if MNIST is neither in ``data_dir`` nor can be downloaded to it.
    """
    return _read(entry, data_dir, _colored, ("5 to 9", "0 to 4"))


def read_rotated(entry: DatasetFacts, data_dir: str, on_bad_image: str) -> DomainDataset:
    """Digits turned by 0 to 75 degrees.

    Raises:
        UserError: if MNIST is neither in ``data_dir`` nor can be downloaded to it.
    """
    return _read(entry, data_dir, _rotated, tuple("0123456789"))


def _read(entry: DatasetFacts, data_dir: str, make: Make, class_names: tuple[str, ...]) -> DomainDataset:
    parts = _load(data_dir)
    images = torch.cat([part.data for part in parts])
    digits = torch.cat([part.targets for part in parts])
    order = torch.randperm(len(images))
    images, digits = images[order], digits[order]
    count = len(entry.domains)
    return DomainDataset(
        name=entry.name,
        domains=tuple(make(name, images[i::count], digits[i::count]) for i, name in enumerate(entry.domains)),
        input_shape=entry.input_shape,
        class_names=class_names,
        labels=entry.labels,
    )


def _colored(name: str, images: torch.Tensor, digits: torch.Tensor) -> InMemoryDomain:
    """uint8 [N, 28, 28] to uint8 [N, 2, 28, 28] with one of the channels empty. Two draws: labels, then colours."""
    flips_label = torch.rand(len(digits)) < LABEL_NOISE
    targets = (digits < 5) ^ flips_label
    flips_color = torch.rand(len(digits)) < COLOR_FLIPS[name]
    channel = (targets ^ flips_color).long()
    colored = torch.zeros(len(images), 2, *images.shape[1:], dtype=torch.uint8)
    colored[torch.arange(len(images)), channel] = images
    return InMemoryDomain(name, colored, targets.long().numpy())


def _rotated(name: str, images: torch.Tensor, digits: torch.Tensor) -> InMemoryDomain:
    """uint8 [N, 28, 28] to uint8 [N, 1, 28, 28], turned counter-clockwise as torchvision's ``rotate`` does."""
    turned = torch.empty(len(images), 1, *images.shape[1:], dtype=torch.uint8)
    for i, image in enumerate(images.numpy()):
        picture = Image.fromarray(image).rotate(float(name), Image.Resampling.BILINEAR, fillcolor=0)
        turned[i, 0] = torch.from_numpy(np.array(picture))
    return InMemoryDomain(name, turned, digits.numpy())


def _load(data_dir: str) -> list[MNIST]:
    """The training and the test part. If a file is missing, one of the runs that need it downloads them."""
    folder = os.path.join(data_dir, "MNIST", "raw")
    is_there = all(os.path.isfile(os.path.join(folder, file)) for file in FILES)
    try:
        with nullcontext() if is_there else file_lock(Path(data_dir, ".MNIST.lock")):
            return [MNIST(data_dir, train=train, download=not is_there) for train in (True, False)]
    except Exception as error:  # torchvision raises OSError, RuntimeError, URLError, and struct.error on bad files
        what = "is damaged" if is_there else "is missing or damaged, and downloading it did not help"
        reason = " ".join(str(error).split())
        raise UserError(
            f"MNIST in {folder} {what} ({reason}); put {', '.join(FILES)} there, from any copy in torchvision's layout"
        ) from None
