"""Data sets in memory: equal to DomainBed's for the same seed."""

from __future__ import annotations

import fcntl
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import MNIST

from sfmoe_dg.data.build import build_dataset
from sfmoe_dg.data.domains import DomainDataset, InMemoryDomain
from sfmoe_dg.data.sets import mnist
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.seeds import seed_everything


def checksums(dataset: DomainDataset) -> list[str]:
    """Checksums of the model's inputs and the labels, per domain."""
    sums = []
    for domain in dataset:
        assert isinstance(domain, InMemoryDomain)
        x = domain.batch(np.arange(len(domain))).numpy()
        sums.append(hashlib.md5(x.tobytes() + domain.targets.astype("<i8").tobytes()).hexdigest()[:12])
    return sums


def test_debug_draws_as_upstream_does() -> None:
    seed_everything(1)
    dataset = build_dataset("Debug28")
    seed_everything(1)
    for domain in dataset:
        assert isinstance(domain, InMemoryDomain)
        assert torch.equal(domain.batch(np.arange(16)), torch.randn(16, 3, 28, 28))
        assert domain.targets.tolist() == torch.randint(0, 2, (16,)).tolist()
    assert (dataset.num_classes, dataset.input_shape, dataset.in_memory) == (2, (3, 28, 28), True)
    assert build_dataset("Debug224").input_shape == (3, 224, 224)


def test_in_memory_domain_scales_bytes() -> None:
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1)
    plain = InMemoryDomain("plain", images, [0, 1, 0])
    assert plain.batch(np.array([2, 0, 1])).flatten().tolist() == pytest.approx([1.0, 0.0, 0.2])
    centred = InMemoryDomain("centred", images, [0, 1, 0], mean=0.5, std=0.5)
    assert centred.batch(np.array([0, 2])).flatten().tolist() == [-1.0, 1.0]
    assert plain.image(1).item() == 51
    assert plain.path(1) == "image 1 of domain plain"


# Verified against upstream's own classes on the same files; --seed 0 and 12345.
UPSTREAM = {
    ("ColoredMNIST", 0): ["c035b27dace7", "2f0e8f8a589e", "9c7db6a2e6c4"],
    ("ColoredMNIST", 12345): ["b42a2a9ad1c7", "922c941261c2", "0b60ad6156fd"],
    ("RotatedMNIST", 0): [
        "0761cfceb4f7",
        "0c0073ad7ad9",
        "b7f460dc44e2",
        "72b1a9cae799",
        "9a0cc09addce",
        "d2d7e5929455",
    ],
    ("RotatedMNIST", 12345): [
        "6c8367643e99",
        "966cdb3f7995",
        "97da060ce0f8",
        "b20e2a500767",
        "87da99c75d5d",
        "94143abc9729",
    ],
}


@pytest.mark.shared_data
@pytest.mark.parametrize(("name", "seed"), UPSTREAM)
def test_mnist_equals_upstream(shared_data: Path, name: str, seed: int) -> None:
    seed_everything(seed)
    assert checksums(build_dataset(name, str(shared_data))) == UPSTREAM[name, seed]


@pytest.mark.shared_data
def test_colored_mnist_correlations(shared_data: Path) -> None:
    """The colour agrees with the label in 90, 80 and 10 % of the images; the shape in 75 %."""
    seed_everything(0)
    dataset = build_dataset("ColoredMNIST", str(shared_data))
    agreements = []
    for domain in dataset:
        assert isinstance(domain, InMemoryDomain)
        x = domain.batch(np.arange(len(domain)))
        assert ((x > 0).flatten(2).any(2).sum(1) == 1).all(), "one channel is empty, the other is not"
        channel = x.flatten(2).sum(2).argmax(1).numpy()
        agreements.append((channel == domain.targets).mean())
    assert agreements == pytest.approx([0.9, 0.8, 0.1], abs=0.02)


@pytest.mark.shared_data
def test_rotated_mnist_parts(shared_data: Path) -> None:
    dataset = build_dataset("RotatedMNIST", str(shared_data))
    assert [len(domain) for domain in dataset] == [1667] * 4 + [1666] * 2
    assert dataset.class_names == tuple("0123456789")


def test_missing_mnist_names_the_folder(tmp_path: Path, monkeypatch) -> None:
    def offline(self) -> None:
        raise OSError("no network")

    monkeypatch.setattr(MNIST, "download", offline)
    with pytest.raises(UserError) as raised:
        build_dataset("RotatedMNIST", str(tmp_path))
    assert str(raised.value) == (
        f"MNIST in {tmp_path}/MNIST/raw is missing or damaged, and downloading it did not help (no network); put "
        "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte there, from "
        "any copy in torchvision's layout"
    )
    with pytest.raises(UserError, match="data set ColoredMNIST needs data_dir, the folder that holds the folder MNIST"):
        build_dataset("ColoredMNIST")


def test_damaged_mnist(tmp_path: Path) -> None:
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for file in mnist.FILES:
        (folder / file).write_bytes(b"")
    with pytest.raises(UserError, match=r"MNIST in .*raw is damaged \("):
        build_dataset("RotatedMNIST", str(tmp_path))


def write_digits(folder: Path, part: str, count: int) -> None:
    """Black pictures of zeros as MNIST has them: two zero bytes, 8 for uint8, the number of dimensions, their sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, shape in (("images-idx3", (count, 28, 28)), ("labels-idx1", (count,))):
        header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">i4").tobytes()
        (folder / f"{part}-{kind}-ubyte").write_bytes(header + bytes(int(np.prod(shape))))


@pytest.mark.parametrize("part", ["train", "t10k"])
def test_half_of_mnist_is_completed_by_one_run_at_a_time(tmp_path: Path, monkeypatch, part: str) -> None:
    folder, other = tmp_path / "MNIST/raw", {"train": "t10k", "t10k": "train"}[part]
    write_digits(folder, part, 12)
    downloads = []

    def download(self: MNIST) -> None:
        if not self._check_exists():
            downloads.append(other)
            with open(tmp_path / ".MNIST.lock") as lock, pytest.raises(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            write_digits(folder, other, 24)

    monkeypatch.setattr(MNIST, "download", download)
    assert sum(map(len, build_dataset("RotatedMNIST", str(tmp_path)))) == 36
    assert sum(map(len, build_dataset("RotatedMNIST", str(tmp_path)))) == 36
    assert downloads == [other]
