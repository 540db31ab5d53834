"""Loaders: equal batches for any number of workers and first step; errors stay whole; no global state changes."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from image_trees import write_tree

from sfmoe_dg.data.batches.loaders import EvalLoader, Reading, TrainLoader
from sfmoe_dg.data.batches.transforms import ImageTransform
from sfmoe_dg.data.batches.workers import _Pixels, auto_num_workers
from sfmoe_dg.data.build import build_dataset
from sfmoe_dg.data.domains import Domain, DomainDataset
from sfmoe_dg.data.splits import split_domains
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.seeds import generator

AUGMENT = ImageTransform(augment=True, size=16)
CLEAN = ImageTransform(size=16)


def train_loader(dataset: DomainDataset, num_workers: int = 0, **kwargs) -> TrainLoader:
    splits = split_domains(dataset, [0], uda_fraction=0.4)
    options = {"seed": 3, "reading": Reading(num_workers), "unlabeled_envs": [0]} | kwargs
    return TrainLoader(dataset, splits, [1, 2], 4, options.pop("transform", AUGMENT), **options)


def steps(loader: TrainLoader, start: int, stop: int) -> list[list[torch.Tensor]]:
    batches = list(loader.batches(start, stop))
    loader.close()
    assert [batch.step for batch in batches] == list(range(start, stop))
    return [[t for pair in batch.minibatches for t in pair] + (batch.unlabeled or []) for batch in batches]


def assert_equal(left: list[list[torch.Tensor]], right: list[list[torch.Tensor]]) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_shapes_and_types(tiny_folder) -> None:
    (batch,) = train_loader(tiny_folder).batches(0, 1)
    assert [(x.shape, y.shape) for x, y in batch.minibatches] == [((4, 3, 16, 16), (4,))] * 2
    assert [(x.dtype, y.dtype) for x, y in batch.minibatches] == [(torch.float32, torch.int64)] * 2
    assert batch.unlabeled is not None
    assert [x.shape for x in batch.unlabeled] == [(4, 3, 16, 16)]
    (batch,) = train_loader(tiny_folder, unlabeled_envs=()).batches(0, 1)
    assert batch.unlabeled is None


@pytest.mark.parametrize("num_workers", [1, 4])
def test_any_number_of_workers_gives_the_same_batches(tiny_folder, num_workers: int) -> None:
    assert_equal(steps(train_loader(tiny_folder), 0, 6), steps(train_loader(tiny_folder, num_workers), 0, 6))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_any_step_can_be_made_again(tiny_folder, num_workers: int) -> None:
    """From the middle; and again after a pass that was left early, with the workers still there."""
    loader = train_loader(tiny_folder, num_workers)
    everything = [batch.minibatches for batch in loader.batches(0, 6)]
    for batch in loader.batches(0, 6):
        if batch.step == 1:
            break
    again = [batch.minibatches for batch in loader.batches(3, 6)]
    loader.close()
    flat = [[[t for pair in step for t in pair] for step in run] for run in (everything[3:], again)]
    assert_equal(*flat)


@pytest.mark.slow
def test_spawned_workers_give_the_same_batches(tiny_folder) -> None:
    """The way worker processes start on macOS and Windows."""
    spawned = steps(train_loader(tiny_folder, reading=Reading(1, start_method="spawn")), 0, 2)
    assert_equal(steps(train_loader(tiny_folder), 0, 2), spawned)


def test_what_workers_need_can_be_pickled(tiny_folder) -> None:
    pixels = pickle.loads(pickle.dumps(_Pixels(tiny_folder, [CLEAN] * 3)))
    request = train_loader(tiny_folder, transform=CLEAN).requests(0)
    assert torch.equal(pixels[request][1][0], _Pixels(tiny_folder, [CLEAN] * 3)[request][1][0])


def test_seed_and_step_change_what_is_drawn(tiny_folder) -> None:
    loader, other = train_loader(tiny_folder), train_loader(tiny_folder, seed=4)
    drawn = [tuple(r.indices.tolist() for r in x) for x in (loader.requests(0), loader.requests(1), other.requests(0))]
    assert len(set(map(str, drawn))) == 3


def test_draws_by_hand(make_dataset) -> None:
    """Uniform with replacement from the in-split, keyed by (seed, purpose, domain, step)."""
    dataset = make_dataset([30, 40, 50])
    splits = split_domains(dataset, [0])
    loader = TrainLoader(dataset, splits, [2], 8, CLEAN, seed=9)
    expected = splits[2].in_[generator(9, "train", 2, 17).integers(40, size=8)]
    (request,) = loader.requests(17)
    assert request.indices.tolist() == expected.tolist()
    (batch,) = loader.batches(17, 18)
    ((x, y),) = batch.minibatches
    assert torch.equal(x, torch.full((8, 1, 2, 2), 2 / 255))
    assert y.tolist() == (expected % 2).tolist()


def test_draws_come_from_the_right_split(make_dataset) -> None:
    dataset = make_dataset([50, 50])
    splits = split_domains(dataset, [1], uda_fraction=0.5)
    loader = TrainLoader(dataset, splits, [0], 8, CLEAN, seed=0, unlabeled_envs=[1])
    drawn = [loader.requests(step) for step in range(200)]
    assert set(np.concatenate([r[0].indices for r in drawn])) == set(splits[0].in_)
    assert set(np.concatenate([r[1].indices for r in drawn])) == set(splits[1].uda)


def test_class_balanced(make_dataset) -> None:
    """One image of class 1 among 100 is drawn as often as all others together, each of those equally often."""
    dataset = make_dataset([120, 5])
    dataset[0].targets[:] = 0
    splits = split_domains(dataset, [1], holdout_fraction=0.2)
    rare = splits[0].in_[3]
    dataset[0].targets[rare] = 1
    loader = TrainLoader(dataset, splits, [0], 50, CLEAN, seed=1, class_balanced=True)
    drawn = np.concatenate([loader.requests(step)[0].indices for step in range(200)])
    assert abs((drawn == rare).mean() - 0.5) < 0.02
    counts = np.bincount(drawn, minlength=120)[np.setdiff1d(splits[0].in_, [rare])]
    assert 20 < counts.min() <= counts.max() < 90  # 10,000 · 0.5 / 95 = 53 in expectation


def test_global_generators_are_left_alone(tiny_folder) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    for num_workers in (0, 1):
        steps(train_loader(tiny_folder, num_workers), 0, 2)
        evaluation = EvalLoader(tiny_folder, None, [AUGMENT] * 3, seed=0, reading=Reading(num_workers))
        list(evaluation.batches(0))
        evaluation.close()
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert np.array_equal(before[2], np.random.get_state()[1])


def test_augmentation_is_of_the_image_alone(tiny_folder) -> None:
    """The same image, drawn twice in a batch, is augmented in two ways; reading it alone gives the same pixels."""
    loader = train_loader(tiny_folder)
    (request, _, _) = loader.requests(0)
    pixels = _Pixels(tiny_folder, [AUGMENT] * 3)
    same = request._replace(indices=np.repeat(request.indices[:1], 4))
    _, (batch,) = pixels.read((same,))
    assert not torch.equal(batch[0], batch[1])
    _, (alone,) = pixels.read((same._replace(indices=same.indices[2:3], seeds=same.seeds[2:3]),))
    assert torch.equal(alone[0], batch[2])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_reads_every_image_once(tiny_folder, num_workers: int) -> None:
    splits = split_domains(tiny_folder, [0], uda_fraction=0.4)
    used = [split.used for split in splits]
    loader = EvalLoader(tiny_folder, used, [CLEAN] * 3, seed=0, batch_size=5, reading=Reading(num_workers))
    for _ in range(2):  # the second pass uses the same workers
        batches = list(loader.batches())
        assert [(b.env, b.indices.tolist()) for b in batches] == [
            (env, list(range(start, min(start + 5, 12)))) for env in range(3) for start in (0, 5, 10)
        ]
        for batch in batches:
            domain = tiny_folder[batch.env]
            assert torch.equal(batch.x, torch.stack([CLEAN(domain.image(i)) for i in batch.indices]))
            assert batch.y.tolist() == domain.targets[batch.indices].tolist()
    assert {batch.env for batch in loader.batches(envs=[2])} == {2}
    loader.close()


def test_evaluation_reads_only_what_is_in_a_split(make_dataset) -> None:
    identities = [np.arange(50), np.arange(50)]
    dataset = make_dataset([50, 50], identities)
    splits = split_domains(dataset, [1], policy="identity")
    loader = EvalLoader(dataset, [split.used for split in splits], [CLEAN] * 2, seed=0)
    assert [len(batch.indices) for batch in loader.batches()] == [40, 10]


def test_evaluation_through_augmentation(tiny_folder) -> None:
    """Keyed by the image and the step: batch size and workers do not matter, another step gives another picture."""

    def run(step: int, batch_size: int, num_workers: int) -> torch.Tensor:
        transforms = [CLEAN, AUGMENT, AUGMENT]
        loader = EvalLoader(tiny_folder, None, transforms, seed=5, batch_size=batch_size, reading=Reading(num_workers))
        x = torch.cat([batch.x for batch in loader.batches(step)])
        loader.close()
        return x

    reference = run(300, 12, 0)
    assert torch.equal(reference, run(300, 5, 2))
    later = run(600, 12, 0)
    assert torch.equal(reference[:12], later[:12])
    assert not torch.equal(reference[12:], later[12:])


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_a_bad_image_arrives_as_one_sentence(tmp_path: Path, num_workers: int) -> None:
    root = write_tree(tmp_path, domains=("a", "b"), per_class=3)
    (root / "b/dog/2.png").write_text("spoiled")
    dataset = build_dataset("ImageFolder", str(root))
    loader = EvalLoader(dataset, None, [CLEAN] * 2, seed=0, batch_size=2, reading=Reading(num_workers))
    with pytest.raises(UserError) as raised:
        list(loader.batches())
    assert str(raised.value) == (
        f"image {root}/b/dog/2.png does not decode (not an image); replace it, or leave such images out with "
        "on_bad_image skip"
    )
    loader.close()


class DyingDomain(Domain):
    def image(self, index: int) -> torch.Tensor:
        os._exit(1)

    def path(self, index: int) -> str:
        return "nowhere"


def test_a_dead_worker_does_not_hang() -> None:
    dataset = DomainDataset("Dying", (DyingDomain("one", [0] * 4),), (3, 16, 16), ("only",), ("one",))
    loader = EvalLoader(dataset, None, [CLEAN], seed=0, reading=Reading(2))
    with pytest.raises(UserError, match=r"a data-loading worker died .* set num_workers to 1"):
        list(loader.batches())
    loader.close()


class FaultyDomain(DyingDomain):
    def image(self, index: int) -> torch.Tensor:
        raise RuntimeError("this reader has a fault")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_fault_in_a_worker_is_not_a_dead_worker(num_workers: int) -> None:
    dataset = DomainDataset("Faulty", (FaultyDomain("one", [0] * 4),), (3, 16, 16), ("only",), ("one",))
    loader = EvalLoader(dataset, None, [CLEAN], seed=0, reading=Reading(num_workers))
    with pytest.raises(RuntimeError, match="this reader has a fault"):
        list(loader.batches())
    loader.close()


INTERRUPTED = """
import sys, os, signal
from sfmoe_dg.data.batches.loaders import EvalLoader, Reading
from sfmoe_dg.data.batches.transforms import ImageTransform
from sfmoe_dg.data.build import build_dataset
dataset = build_dataset("ImageFolder", sys.argv[1])
loader = EvalLoader(dataset, None, [ImageTransform(size=16)] * 3, seed=0, batch_size=1, reading=Reading(2))
try:
    for i, batch in enumerate(loader.batches()):
        if i == 5:
            os.killpg(0, signal.SIGINT)  # what Ctrl-C in a terminal does: to workers too
except KeyboardInterrupt:
    loader.close()
    print("stopped")
"""


@pytest.mark.slow
def test_ctrl_c_ends_quietly(tiny_tree: Path) -> None:
    """One interruption, seen by the main process only; no worker writes a traceback."""
    command = [sys.executable, "-c", INTERRUPTED, str(tiny_tree)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, start_new_session=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "stopped\n", "")


def test_bad_arguments(tiny_folder, make_dataset) -> None:
    splits = split_domains(tiny_folder, [0])
    with pytest.raises(UserError, match="has 10 images to train on, fewer than the batch size 11"):
        TrainLoader(tiny_folder, splits, [1], 11, CLEAN, seed=0)
    with pytest.raises(UserError, match="batch_size is 0; it must be at least 1"):
        TrainLoader(tiny_folder, splits, [1], 0, CLEAN, seed=0)
    with pytest.raises(UserError, match="training domain 3 of ImageFolder does not exist"):
        TrainLoader(tiny_folder, splits, [3], 4, CLEAN, seed=0)
    with pytest.raises(UserError, match=r"domain 0 \(a\) of ImageFolder has no unlabeled images to adapt to; set uda"):
        TrainLoader(tiny_folder, splits, [1], 4, CLEAN, seed=0, unlabeled_envs=[0])
    with pytest.raises(UserError, match="num_workers is -1; it must be at least 0"):
        TrainLoader(tiny_folder, splits, [1], 4, CLEAN, seed=0, reading=Reading(-1))


def test_automatic_number_of_workers(tiny_folder, make_dataset, monkeypatch) -> None:
    assert auto_num_workers(make_dataset([4])) == 0
    for cores, workers in ((1, 0), (2, 1), (64, 4)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)), raising=False)
        assert auto_num_workers(tiny_folder) == workers
