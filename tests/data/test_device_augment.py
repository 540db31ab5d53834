"""Augmentation on tensors: pixels and distributions equal torchvision's, and no global state changes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as tvf
from PIL import Image
from torchvision import transforms as tv

from sfmoe_dg.data.batches import device_augment as da
from sfmoe_dg.data.batches.cache import cached
from sfmoe_dg.data.batches.loaders import EvalLoader, Reading, TrainLoader
from sfmoe_dg.data.batches.transforms import ImageTransform
from sfmoe_dg.data.splits import split_domains

LEVEL = 1 / 255


def photograph(width: int = 61, height: int = 47) -> Image.Image:
    """Random colours on a coarse grid, enlarged, with some grey, black and white."""
    small = np.random.RandomState(width).randint(0, 256, (9, 11, 3), dtype=np.uint8)
    small[0], small[1, :4], small[1, 4:] = np.arange(11)[:, None] * 25, 0, 255
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def floats(*images: Image.Image) -> torch.Tensor:
    return torch.stack([tvf.to_tensor(image) for image in images])


def amounts(*values: float) -> torch.Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1)


CASES = [
    (da.adjust_brightness, tvf.adjust_brightness, (0.7, 0.95, 1.3)),
    (da.adjust_contrast, tvf.adjust_contrast, (0.7, 0.95, 1.3)),
    (da.adjust_saturation, tvf.adjust_saturation, (0.7, 0.95, 1.3)),
    (da.adjust_hue, tvf.adjust_hue, (-0.3, -0.11, 0.0, 0.07, 0.3)),
]


@pytest.mark.parametrize(("ours", "theirs", "values"), CASES, ids=["brightness", "contrast", "saturation", "hue"])
def test_colors_equal_torchvision_on_tensors(ours, theirs, values) -> None:
    """One amount per image, all images in one call."""
    image = photograph()
    found = ours(floats(*[image] * len(values)), amounts(*values))
    for row, value in zip(found, values, strict=True):
        torch.testing.assert_close(row, theirs(tvf.to_tensor(image), value), atol=LEVEL / 5, rtol=0)


@pytest.mark.parametrize(("ours", "theirs", "values"), CASES[:3], ids=["brightness", "contrast", "saturation"])
def test_colors_equal_torchvision_on_pictures(ours, theirs, values) -> None:
    """Pillow cuts fractions off, hence one grey level, after it has rounded the grey (half a level, times 0.3)."""
    image = photograph()
    found = ours(floats(*[image] * len(values)), amounts(*values))
    for row, value in zip(found, values, strict=True):
        torch.testing.assert_close(row, tvf.to_tensor(theirs(image, value)), atol=1.16 * LEVEL, rtol=0)


@pytest.mark.parametrize("steps", [-76, -20, 0, 33, 76])
def test_hue_equals_torchvision_on_pictures_up_to_its_steps(steps: int) -> None:
    """Pillow cuts hue and saturation to 256 steps and counts 255 to a circle but 256 when it wraps round.

    Two steps of hue are up to 12 grey levels of the middle channel, one of saturation is one.
    """
    image, shift = photograph(), steps / 255
    difference = da.adjust_hue(floats(image), amounts(shift)) - floats(tvf.adjust_hue(image, shift + 1e-6))
    assert difference.abs().max() < 13 * LEVEL
    assert difference.abs().mean() < 2 * LEVEL


def test_hue_by_hand() -> None:
    """A third of the circle makes red green; grey stays; orange (30°) turned by 90° is (0.5, 1, 0)."""
    x = torch.tensor([[1.0, 0, 0], [0.4, 0.4, 0.4], [1, 0.5, 0]]).view(3, 3, 1, 1)
    found = da.adjust_hue(x, amounts(1 / 3, 0.2, 0.25)).view(3, 3)
    # 30° + 90° = 120° is green itself.
    torch.testing.assert_close(found, torch.tensor([[0.0, 1, 0], [0.4, 0.4, 0.4], [0, 1, 0]]))


def test_grayscale_equals_torchvision() -> None:
    image = photograph()
    expected = tvf.to_tensor(tvf.rgb_to_grayscale(image, num_output_channels=1))
    torch.testing.assert_close(da.grayscale(floats(image))[0], expected, atol=0.51 * LEVEL, rtol=0)


@pytest.mark.parametrize("box", [(0, 0, 47, 61), (3, 5, 40, 30), (10, 20, 5, 9)])
@pytest.mark.parametrize("size", [32, 64])
def test_crop_and_resize_equal_torchvision(box, size: int) -> None:
    """The kernels differ in how they round weights: two grey levels at most, half a level on average."""
    image, (top, left, height, width) = photograph(), box
    pixels = torch.from_numpy(np.array(image))[top : top + height, left : left + width]
    expected = torch.from_numpy(np.array(tvf.resized_crop(image, top, left, height, width, [size, size])))
    difference = (da.resize(pixels, size).int() - expected.int()).abs()
    assert difference.max() <= 2
    assert difference.float().mean() < 0.5


def test_batch_changes_every_image_by_itself() -> None:
    """A batch with mixed orders equals its images one by one, and torchvision's functions in the drawn order."""
    image = photograph()
    seeds = np.arange(40) * 77_777_777_777
    changes, x = da.draw_changes(seeds), floats(*[image] * 40)
    together = da.change(x.clone(), changes)
    functions = [tvf.adjust_brightness, tvf.adjust_contrast, tvf.adjust_saturation, tvf.adjust_hue]
    for i in range(40):
        alone = da.change(x[i : i + 1].clone(), changes[i : i + 1])[0]
        torch.testing.assert_close(together[i], alone, atol=1e-6, rtol=0)
        expected = tvf.hflip(x[i]) if changes.flip[i] else x[i]
        for which in changes.order[i]:
            expected = functions[which](expected, float(changes.amounts[i, which]))
        expected = tvf.rgb_to_grayscale(expected, 3) if changes.gray[i] else expected
        torch.testing.assert_close(alone, expected, atol=LEVEL, rtol=0)
    assert 0 < changes.gray.sum() < 40
    assert 0 < changes.flip.sum() < 40


def test_changes_are_distributed_as_torchvision_draws_them() -> None:
    """Uniform factors in [0.7, 1.3] and shifts in [-0.3, 0.3], all 24 orders, half flipped, a tenth grey."""
    changes = da.draw_changes(np.random.default_rng(0).integers(2**63 - 1, size=24_000))
    low, high = np.array([0.7, 0.7, 0.7, -0.3]), np.array([1.3, 1.3, 1.3, 0.3])
    deciles = np.quantile(changes.amounts, np.linspace(0, 1, 11), axis=0)
    assert np.abs(deciles - np.linspace(low, high, 11)).max() < 0.01
    orders, counts = np.unique(changes.order, axis=0, return_counts=True)
    assert len(orders) == math.factorial(4)
    assert 850 < counts.min() <= counts.max() < 1150  # 1000 each, standard deviation 31
    assert abs(changes.flip.mean() - 0.5) < 0.015
    assert abs(changes.gray.mean() - 0.1) < 0.01
    columns = np.column_stack([changes.amounts, changes.flip, changes.gray])
    assert np.abs(np.corrcoef(columns.T) - np.eye(6)).max() < 0.03


@pytest.mark.parametrize("size", [(227, 227), (300, 200), (40, 500), (1, 1)])
def test_crops_are_distributed_as_torchvision_draws_them(size: tuple[int, int]) -> None:
    """Means and spreads of top, left, height and width; (40, 500) has no allowed crop but the middle."""
    count = 3000
    boxes = da.crop_boxes(np.random.default_rng(1).integers(2**63 - 1, size=count), np.array([size] * count))
    torch.manual_seed(0)
    image = torch.empty(3, *size)
    drawn = [tv.RandomResizedCrop.get_params(image, [0.7, 1.0], [3 / 4, 4 / 3]) for _ in range(count)]
    theirs = np.array(drawn)
    tolerance = 4 * theirs.std(axis=0) / math.sqrt(count / 2) + 1e-9
    assert (np.abs(boxes.mean(axis=0) - theirs.mean(axis=0)) <= tolerance).all()
    assert (np.abs(boxes.std(axis=0) - theirs.std(axis=0)) <= tolerance).all()
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= size).all()


def test_uniforms_by_hand() -> None:
    """SplitMix64 from seed 1234567: the reference implementation's first numbers, of which 53 bits are kept."""
    reference = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert da.uniforms(np.array([1234567]), 0, 3).tolist() == [[(n >> 11) / 2**53 for n in reference]]
    assert da.uniforms(np.array([5, 6]), 1, 4)[1].tolist() == da.uniforms(np.array([6]), 1, 4)[0].tolist()
    assert not np.intersect1d(da.uniforms(np.array([5]), 0, 50), da.uniforms(np.array([5]), 1, 50)).size


@pytest.mark.parametrize("num_workers", [1, 4])
def test_any_number_of_workers_gives_the_same_batches(tiny_folder, tmp_path: Path, num_workers: int) -> None:
    dataset = cached(tiny_folder, tmp_path)
    splits = split_domains(dataset, [0])
    transform = da.TensorTransform(augment=True, size=16)

    def batches(workers: int) -> list[torch.Tensor]:
        loader = TrainLoader(dataset, splits, [1, 2], 4, transform, seed=3, reading=Reading(workers))
        found = [x for batch in loader.batches(2, 6) for x, _ in batch.minibatches]
        loader.close()
        return found

    state = torch.get_rng_state()
    for one, other in zip(batches(0), batches(num_workers), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(state, torch.get_rng_state())


def test_files_and_cache_give_the_same_batches_of_small_pictures(tiny_folder, tmp_path: Path) -> None:
    """The cache keeps pictures as decoded where they are small, so only where the pixels come from differs."""
    found = []
    for dataset in (tiny_folder, cached(tiny_folder, tmp_path)):
        splits = split_domains(dataset, [0])
        transform = da.TensorTransform(augment=True, size=16)
        loader = TrainLoader(dataset, splits, [1, 2], 4, transform, seed=3, reading=Reading(0))
        found.append([x for batch in loader.batches(0, 3) for x, _ in batch.minibatches])
        loader.close()
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_evaluation_does_not_depend_on_the_batches(tiny_folder, tmp_path: Path) -> None:
    dataset = cached(tiny_folder, tmp_path)
    clean, augmented = da.TensorTransform(size=16), da.TensorTransform(size=16, augment=True)

    def run(step: int, batch_size: int) -> torch.Tensor:
        transforms = [clean, augmented, augmented]
        loader = EvalLoader(dataset, None, transforms, seed=5, batch_size=batch_size, reading=Reading(0))
        return torch.cat([batch.x for batch in loader.batches(step)])

    reference, later = run(300, 12), run(600, 12)
    assert torch.equal(reference, run(300, 5))
    assert torch.equal(reference[:12], later[:12])
    assert (reference[12:] != later[12:]).flatten(1).any(1).all()


def test_evaluation_resizes_as_the_files_do(tiny_folder, tmp_path: Path) -> None:
    """The same pictures as without a cache, up to the kernels' rounding (two grey levels)."""

    def run(dataset, transform) -> torch.Tensor:
        loader = EvalLoader(dataset, None, [transform] * 3, seed=0, reading=Reading(0))
        return torch.cat([batch.x for batch in loader.batches()])

    ours = run(cached(tiny_folder, tmp_path), da.TensorTransform(size=224))
    torch.testing.assert_close(ours, run(tiny_folder, ImageTransform(size=224)), atol=2.01 * LEVEL / 0.224, rtol=0)


@pytest.mark.gpu
def test_the_device_gives_the_same_colors() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    transform, seeds = da.TensorTransform(augment=True), np.arange(16)
    pixels = torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8)
    on_device = transform.finish(pixels.cuda(), seeds).cpu()
    torch.testing.assert_close(on_device, transform.finish(pixels, seeds), atol=1e-3, rtol=0)


def test_colors_do_not_depend_on_the_number_of_threads() -> None:
    """At 224 pixels torch would divide the sums among threads, which rounds them otherwise."""
    transform, seeds = da.TensorTransform(augment=True), np.arange(4)
    pixels = torch.randint(0, 256, (4, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(transform.finish(pixels, seeds))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)
