"""Transforms: equal to what torchvision composes, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as tv

from sfmoe_dg.data.batches.transforms import IMAGENET_MEAN, IMAGENET_STD, ImageTransform


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.RandomState(width).randint(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(227, 227), (100, 300), (640, 31), (1, 1)])
def test_evaluation_equals_torchvision(size) -> None:
    expected = tv.Compose([tv.Resize((224, 224)), tv.ToTensor(), tv.Normalize(list(IMAGENET_MEAN), list(IMAGENET_STD))])
    assert torch.equal(ImageTransform()(picture(*size)), expected(picture(*size)))


@pytest.mark.parametrize("size", [(227, 227), (100, 300), (500, 40)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_augmentation_equals_torchvision_from_the_same_generator(size, seed: int) -> None:
    expected = tv.Compose(
        [
            tv.RandomResizedCrop(224, scale=(0.7, 1.0)),
            tv.RandomHorizontalFlip(),
            tv.ColorJitter(0.3, 0.3, 0.3, 0.3),
            tv.RandomGrayscale(),
            tv.ToTensor(),
            tv.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )
    torch.manual_seed(seed)
    wanted, after = expected(picture(*size)), torch.rand(1)
    torch.manual_seed(seed)
    assert torch.equal(ImageTransform(augment=True)(picture(*size)), wanted)
    assert torch.equal(torch.rand(1), after), "another number of draws"


def test_size_mean_and_std() -> None:
    transform = ImageTransform(size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    white = Image.new("RGB", (20, 10), (255, 255, 255))
    assert torch.equal(transform(white), torch.ones(3, 8, 8))
    assert transform.pixels(white).dtype == torch.uint8


def test_normalizing_a_batch_leaves_the_pixels_alone() -> None:
    pixels = torch.randint(0, 256, (4, 3, 5, 5), dtype=torch.uint8)
    before = pixels.clone()
    transform = ImageTransform()
    assert torch.equal(transform.normalize(pixels)[2], transform.normalize(pixels[2]))
    assert torch.equal(pixels, before)
