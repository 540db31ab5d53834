"""Pixels kept between evaluations: batches stay equal, images are decoded once, and the memory limit holds."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from sfmoe_dg.data.batches.kept_pixels import KeptPixels
from sfmoe_dg.data.batches.loaders import EvalLoader, Reading
from sfmoe_dg.data.batches.transforms import ImageTransform
from sfmoe_dg.data.domains import Domain, DomainDataset

CLEAN, AUGMENT = ImageTransform(size=16), ImageTransform(size=16, augment=True)
IMAGE_BYTES = 3 * 16 * 16


class Counting(Domain):
    """Records which images are decoded."""

    def __init__(self, source: Domain) -> None:
        super().__init__(source.name, source.targets)
        self.source, self.decoded = source, Counter[int]()

    def image(self, index: int):
        self.decoded[index] += 1
        return self.source.image(index)

    def path(self, index: int) -> str:
        return self.source.path(index)


@pytest.fixture
def counting(tiny_folder) -> DomainDataset:
    return replace(tiny_folder, domains=tuple(map(Counting, tiny_folder)))


def decoded(dataset: DomainDataset, env: int) -> set[int]:
    """How often the images of a domain were decoded: a set of one number if equally often."""
    return {dataset[env].decoded[i] for i in range(12)}


def everything(loader: EvalLoader, step: int, **options) -> list[tuple]:
    return [(b.env, b.indices.tolist(), b.x, b.y) for b in loader.batches(step, **options)]


def assert_same(left: list[tuple], right: list[tuple]) -> None:
    assert [batch[:2] for batch in left] == [batch[:2] for batch in right]
    assert all(torch.equal(a[2], b[2]) and torch.equal(a[3], b[3]) for a, b in zip(left, right, strict=True))
    assert [a[2].stride() for a in left] == [b[2].stride() for b in right]


def test_clean_domains_are_decoded_once_and_augmented_ones_every_time(counting) -> None:
    loaders = [
        EvalLoader(counting, None, [CLEAN, AUGMENT, CLEAN], seed=0, batch_size=5, reading=Reading(0), keep_bytes=keep)
        for keep in (10**6, 0)
    ]
    for step in (0, 10, 20):
        assert_same(*(everything(loader, step) for loader in loaders))
    # Three evaluations of the loader that keeps nothing, and one or three of the other.
    assert [decoded(counting, env) for env in range(3)] == [{3 + 1}, {3 + 3}, {3 + 1}]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_bound_is_kept_and_changes_no_batch(tiny_folder, num_workers: int) -> None:
    """Room for 7 of 36 images, in batches of 5: the second batch is kept in part, and read again."""
    loaders = [
        EvalLoader(tiny_folder, None, [CLEAN] * 3, seed=0, batch_size=5, reading=Reading(num_workers), keep_bytes=keep)
        for keep in (7 * IMAGE_BYTES + 1, 0)
    ]
    for step in (0, 10):
        assert_same(*(everything(loader, step) for loader in loaders))
    for loader in loaders:
        loader.close()


def test_other_batches_of_the_same_images(counting) -> None:
    """An evaluation of the out-split alone divides the images otherwise, and finds them all."""
    loader = EvalLoader(counting, None, [CLEAN] * 3, seed=0, batch_size=5, reading=Reading(0), keep_bytes=10**6)
    everything(loader, 0)
    some = np.array([1, 4, 5, 6, 9, 11])
    found = everything(loader, 10, envs=[1], only={1: some})
    assert [batch[1] for batch in found] == [[1, 4, 5, 6, 9], [11]]
    assert torch.equal(found[1][2][0], CLEAN(counting[1].source.image(11)))
    assert decoded(counting, 1) == {1}


def test_closing_forgets(counting) -> None:
    loader = EvalLoader(counting, None, [CLEAN] * 3, seed=0, reading=Reading(0), keep_bytes=10**6)
    for _ in range(2):
        everything(loader, 0)
        loader.close()
    assert decoded(counting, 0) == {2}


def test_what_fits_by_hand() -> None:
    """12 bytes an image; 30 bytes hold two. An image that is already there takes no room again."""
    pixels = torch.arange(36, dtype=torch.uint8).view(3, 2, 2, 3).permute(0, 3, 1, 2)
    kept = KeptPixels(30)
    kept.add(0, np.array([7, 8, 9]), pixels)
    kept.add(0, np.array([7]), pixels[2:])
    assert kept.has(0, np.array([8, 7]))
    assert not kept.has(0, np.array([7, 9]))
    assert not kept.has(1, np.array([7]))
    assert torch.equal(kept.get(0, np.array([8, 7])), pixels[[1, 0]])
    pixels.zero_()  # the workers' memory is used for something else
    assert kept.get(0, np.array([8]))[0, 0, 0, 0] == 12
