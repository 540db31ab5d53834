"""Prefetching one batch: the order of operations on the device, and no batch is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest
import torch

from sfmoe_dg.data.batches.loaders import Reading, TrainLoader
from sfmoe_dg.data.batches.side_stream import one_ahead, side_stream, tensors_in, to_device
from sfmoe_dg.data.batches.transforms import ImageTransform
from sfmoe_dg.data.splits import split_domains


class FakeStream:
    """Records the order of operations and whether a batch was made on the stream."""

    def __init__(self) -> None:
        self.happened: list[str] = []
        self.active = False

    @contextmanager
    def issuing(self) -> Iterator[None]:
        self.active = True
        yield
        self.active = False

    def hand_over(self, batch: object) -> None:
        assert not self.active
        self.happened.append(f"hand over {batch}")

    def batches(self, count: int) -> Iterator[int]:
        for number in range(count):
            assert self.active
            self.happened.append(f"issue {number}")
            yield number


def test_the_next_batch_is_issued_before_the_present_one_is_used() -> None:
    stream = FakeStream()
    for batch in one_ahead(stream.batches(3), stream):
        stream.happened.append(f"use {batch}")
    assert stream.happened == [
        "issue 0", "hand over 0", "issue 1", "use 0", "hand over 1", "issue 2", "use 1", "hand over 2", "use 2",
    ]  # fmt: skip


@pytest.mark.parametrize("count", [0, 1, 4])
def test_all_batches_in_order(count: int) -> None:
    stream = FakeStream()
    assert list(one_ahead(stream.batches(count), stream)) == list(range(count))
    assert list(one_ahead(iter(range(count)), None)) == list(range(count))


def test_an_error_comes_before_the_batch_that_it_follows() -> None:
    """The reader's sentence is not lost because it was met ahead of its turn."""

    def broken() -> Iterator[int]:
        yield 0
        raise ValueError("image 7 does not decode")

    with pytest.raises(ValueError, match="image 7"):
        list(one_ahead(broken(), FakeStream()))


class Pair(NamedTuple):
    x: torch.Tensor
    number: int


def test_every_tensor_of_a_batch_is_found() -> None:
    a, b, c = torch.zeros(3, 1)
    assert [t.data_ptr() for t in tensors_in([Pair(a, 1), (b, [c], None)])] == [t.data_ptr() for t in (a, b, c)]


def test_the_cpu_has_no_side_stream() -> None:
    assert side_stream(torch.device("cpu")) is None
    values = torch.arange(3)
    assert to_device(values, torch.device("cpu")) is values


@pytest.mark.gpu
def test_batches_on_the_device_are_those_of_the_cpu(tiny_folder) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    splits, transform = split_domains(tiny_folder, [0]), ImageTransform(augment=True, size=16)
    loaders = [
        TrainLoader(tiny_folder, splits, [1, 2], 4, transform, seed=3, reading=Reading(2, device))
        for device in ("cpu", "cuda")
    ]
    for on_cpu, on_gpu in zip(*(loader.batches(0, 20) for loader in loaders), strict=True):
        for (x, y), (x_gpu, y_gpu) in zip(on_cpu.minibatches, on_gpu.minibatches, strict=True):
            torch.testing.assert_close(x_gpu.cpu(), x)
            assert torch.equal(y_gpu.cpu(), y)
    for loader in loaders:
        loader.close()
