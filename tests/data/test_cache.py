"""The cache of decoded images: built once, reused, rebuilt if outdated, and refused in one sentence if unusable."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import pickle
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from image_trees import write_image, write_tree
from PIL import Image

from sfmoe_dg.cli.sweep import _command
from sfmoe_dg.cli.train import cache_folder
from sfmoe_dg.data.batches import cache as cache_module
from sfmoe_dg.data.batches.cache import CachedDomain, cached
from sfmoe_dg.data.batches.device_augment import TensorTransform
from sfmoe_dg.data.batches.loaders import EvalLoader, Reading
from sfmoe_dg.data.build import build_dataset
from sfmoe_dg.data.domains import DomainDataset
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.runs.spec import Options, RunSpec
from sfmoe_dg.sweeps.launch.launcher import make_settings
from sfmoe_dg.sweeps.launch.local import Local
from sfmoe_dg.sweeps.plan import plan
from sfmoe_dg.sweeps.study import make_spec
from sfmoe_dg.training.loop import train
from sfmoe_dg.training.prepare import Execution


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "tree", domains=("a", "b"), per_class=3)


def open_tree(tree: Path) -> DomainDataset:
    return build_dataset("ImageFolder", str(tree))


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.pixels"))


def assert_same_pixels(dataset, folder: Path) -> None:
    for domain, kept in zip(dataset, cached(dataset, folder), strict=True):
        assert isinstance(kept, CachedDomain)
        for i in range(len(domain)):
            assert np.array_equal(kept.pixels(i), np.asarray(domain.image(i)))
            assert kept.image(i).tobytes() == domain.image(i).tobytes()


def test_small_pictures_are_kept_as_they_are(tree: Path, tmp_path: Path) -> None:
    write_image(tree / "a/cat/wide.png", 1, (70, 3))
    dataset = open_tree(tree)
    assert_same_pixels(dataset, tmp_path / "cache")
    found = cached(dataset, tmp_path / "cache")
    assert [d.name for d in found] == ["a", "b"]
    assert found[0].targets.tolist() == dataset[0].targets.tolist()
    assert found[0].path(1) == dataset[0].path(1)
    assert not list((tmp_path / "cache").glob(".*.tmp"))


def test_large_pictures_are_made_smaller_once(tree: Path, tmp_path: Path) -> None:
    path = write_image(tree / "a/cat/0.png", 1, (600, 300))
    image = cached(open_tree(tree), tmp_path / "cache")[0].image(0)
    assert image.size == (512, 256)
    with Image.open(path) as original:
        assert image.tobytes() == original.resize((512, 256), Image.Resampling.BILINEAR).tobytes()


def test_the_first_run_builds_and_the_next_reads(tree: Path, tmp_path: Path, monkeypatch) -> None:
    dataset = open_tree(tree)
    cached(dataset, tmp_path)
    before = [(f, f.stat().st_mtime_ns) for f in files(tmp_path)]
    assert len(before) == 2
    monkeypatch.setattr(cache_module, "_build", None)
    assert_same_pixels(dataset, tmp_path)
    assert [(f, f.stat().st_mtime_ns) for f in files(tmp_path)] == before


@pytest.mark.parametrize("change", ["pixels", "time", "added", "removed", "renamed"])
def test_changed_files_are_noticed(tree: Path, tmp_path: Path, change: str) -> None:
    cached(open_tree(tree), tmp_path)
    first = tree / "a/cat/0.png"
    if change == "pixels":
        write_image(first, 99, (30, 30))
    elif change == "time":
        os.utime(first, (1, 1))
    elif change == "added":
        write_image(tree / "a/cat/9.png", 99)
    elif change == "removed":
        first.unlink()
    else:
        first.rename(tree / "a/cat/00.png")
    assert_same_pixels(open_tree(tree), tmp_path)
    assert len(files(tmp_path)) == 3, "only the changed domain is decoded again"


@pytest.mark.parametrize("damage", ["last byte", "half", "header", "empty", "index", "longer", "format"])
def test_damaged_files_are_built_again(tree: Path, tmp_path: Path, damage: str) -> None:
    dataset = open_tree(tree)
    cached(dataset, tmp_path)
    file = files(tmp_path)[0]
    content = bytearray(file.read_bytes())
    if damage == "index":
        content[50] ^= 1
    elif damage == "format":
        content[7] ^= 1
    elif damage == "longer":
        content += b"0"
    keep = {"last byte": len(content) - 1, "half": len(content) // 2, "header": 20, "empty": 0}.get(damage)
    file.write_bytes(content[:keep])
    assert_same_pixels(dataset, tmp_path)


def build_in_process(tree: str, folder: str, start, results) -> None:
    start.wait()
    built = []
    real = cache_module._build
    cache_module._build = lambda domain, *rest: built.append(domain.name) or real(domain, *rest)
    dataset = open_tree(Path(tree))
    found = cached(dataset, folder)
    same = all(
        np.array_equal(found[e].pixels(i), np.asarray(dataset[e].image(i)))
        for e in range(len(dataset))
        for i in range(len(dataset[e]))
    )
    results.put((built, same))


@pytest.mark.parametrize("locks", [True, False])
def test_two_builders_at_once(tree: Path, tmp_path: Path, monkeypatch, locks: bool) -> None:
    """With locks each domain is built once; without, a quicker one is replaced by its equal."""

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    if not locks:
        monkeypatch.setattr(fcntl, "flock", no_locks)
    context = multiprocessing.get_context("fork")
    start, results = context.Event(), context.Queue()
    workers = [
        context.Process(target=build_in_process, args=(str(tree), str(tmp_path / "cache"), start, results))
        for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    start.set()
    found = [results.get(timeout=30) for _ in workers]
    for worker in workers:
        worker.join()
    assert all(same for _, same in found)
    built = sorted(name for names, _ in found for name in names)
    assert set(built) == {"a", "b"}
    assert len(built) == 2 or not locks
    assert len(files(tmp_path / "cache")) == 2
    assert not list((tmp_path / "cache").glob(".*.tmp"))


def test_what_a_dead_builder_left_is_removed(tree: Path, tmp_path: Path) -> None:
    """And nothing younger: another machine, which the lock may not reach, may be at work on it."""
    dataset = open_tree(tree)
    cached(dataset, tmp_path)
    file = files(tmp_path)[0]
    dead, living = (tmp_path / f".{file.name}.4711.{token}.tmp" for token in ("0abc", "1def"))
    file.rename(dead)
    living.write_bytes(b"")
    for left, age in ((dead, 3700), (living, 3500)):
        os.utime(left, (time.time() - age,) * 2)
    cached(dataset, tmp_path)
    assert not dead.exists()
    assert living.exists()
    assert file.exists()


def test_a_worker_is_sent_the_name_and_not_the_pixels(tree: Path, tmp_path: Path) -> None:
    dataset = cached(open_tree(tree), tmp_path)
    expected = dataset[0].pixels(2).copy()
    sent = pickle.dumps(dataset[0])
    assert len(sent) < 3000 < expected.nbytes * len(dataset[0])
    assert np.array_equal(pickle.loads(sent).pixels(2), expected)


def test_pixels_cannot_be_spoiled(tree: Path, tmp_path: Path) -> None:
    dataset = open_tree(tree)
    cached(dataset, tmp_path)[0].pixels(0)[:] = 7
    assert_same_pixels(dataset, tmp_path)


def test_bad_images(tree: Path, tmp_path: Path) -> None:
    (tree / "b/dog/1.png").write_text("spoiled")
    with pytest.raises(UserError, match=r"image .*b/dog/1\.png does not decode \(not an image\); replace it"):
        cached(open_tree(tree), tmp_path / "cache")
    assert len(files(tmp_path / "cache")) == 1, "domain a"
    assert not list((tmp_path / "cache").glob(".*.tmp"))
    dataset = build_dataset("ImageFolder", str(tree), on_bad_image="skip")
    assert [len(domain) for domain in cached(dataset, tmp_path / "cache")] == [6, 5]
    assert_same_pixels(dataset, tmp_path / "cache")


def test_a_folder_that_cannot_be_written(tree: Path, tmp_path: Path, monkeypatch) -> None:
    dataset = open_tree(tree)
    (tmp_path / "file").write_text("")
    sentence = "the image cache {} cannot be written ({}); make room there, choose another cache_dir, or"
    with pytest.raises(UserError, match=re.escape(sentence.format(tmp_path / "file/cache", "Not a directory"))):
        cached(dataset, tmp_path / "file/cache")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=re.escape(sentence.format(tmp_path / "full", "No space left on device"))):
        cached(dataset, tmp_path / "full")
    assert [file.suffix for file in (tmp_path / "full").iterdir()] == [".lock"]


def test_a_cache_that_can_only_be_read_is_read(tree: Path, tmp_path: Path, monkeypatch) -> None:
    dataset = open_tree(tree)
    cached(dataset, tmp_path)
    for file in tmp_path.glob("*.lock"):
        file.unlink()
    monkeypatch.setattr(cache_module, "file_lock", None)
    assert_same_pixels(dataset, tmp_path)


def test_an_image_that_vanished(tree: Path, tmp_path: Path) -> None:
    dataset = open_tree(tree)
    shutil.rmtree(tree / "b/dog")
    with pytest.raises(UserError, match=r"b/dog/0.png cannot be read \(No such file"):
        cached(dataset, tmp_path)


def test_data_in_memory_is_refused(make_dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Made does not lie in image files, so there is nothing to cache; set images"):
        cached(make_dataset([4]), tmp_path)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_image_is_evaluated_once(tree: Path, tmp_path: Path, num_workers: int) -> None:
    dataset = cached(open_tree(tree), tmp_path)
    loader = EvalLoader(
        dataset, None, [TensorTransform(size=24)] * 2, seed=0, batch_size=4, reading=Reading(num_workers)
    )
    found = [(batch.env, batch.indices.tolist(), batch.y.tolist()) for batch in loader.batches()]
    loader.close()
    assert found == [(env, part, [i // 3 for i in part]) for env in (0, 1) for part in ([0, 1, 2, 3], [4, 5])]


def test_a_run_from_the_cache(tmp_path: Path) -> None:
    """Recorded, in the job hash, and the same whether this run built the cache or found it."""
    tree = write_tree(tmp_path / "tree", per_class=4)
    hparams = json.dumps({"backbone": "test_resnet", "pretrained": False, "batch_size": 2})
    plain = RunSpec("ImageFolder", "ERM", (0,), str(tree), hparams=hparams, steps=1, skip_model_save=True)
    spec = RunSpec(**{f: getattr(plain, f) for f in plain.__dict__} | {"options": Options(images="cached")})
    assert spec.run_id != plain.run_id
    execution = Execution("cpu", 0, cache_dir=str(tmp_path / "cache"))
    records = []
    for name in ("built", "found"):
        train(spec, tmp_path / name, execution)
        records.append(json.loads((tmp_path / name / "results.jsonl").read_text()))
    assert records[0]["options"] == {"images": "cached"}
    assert records[0]["loss"] == records[1]["loss"]
    as_tensors = RunSpec(**{f: getattr(plain, f) for f in plain.__dict__} | {"options": Options(images="tensors")})
    train(as_tensors, tmp_path / "tensors", Execution("cpu", 0))
    record = json.loads((tmp_path / "tensors" / "results.jsonl").read_text())
    assert record["options"] == {"images": "tensors"}
    with pytest.raises(UserError, match="images cached needs cache_dir"):
        train(spec, tmp_path / "without", Execution("cpu", 0))


def test_where_the_cache_lies(monkeypatch) -> None:
    """The flag, then the environment, then the home folder; a sweep hands its setting on to every run."""
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("SFMOE_DG_CACHE", raising=False)
    assert cache_folder() == "/home/someone/.cache/sfmoe_dg"
    monkeypatch.setenv("SFMOE_DG_CACHE", "/scratch/cache")
    assert cache_folder() == "/scratch/cache"
    assert cache_folder("~/here") == "/home/someone/here"
    values = {"datasets": ["PACS"], "algorithms": ["ERM"], "options": {"images": "cached"}}
    spec = make_spec(values | {"launch": {"cache_dir": "~/here"}, "name": "study"}, "study.toml")
    (run, *_) = plan(spec, "data")
    command = " ".join(_command(make_settings(Local, spec.launch), (), run, Path("out")))
    assert "--images cached" in command
    assert "--cache_dir ~/here" in command
    with pytest.raises(UserError, match=r"key 'cache_dir' in \[launch\] of x is 3; it must be a string"):
        make_spec(values | {"launch": {"cache_dir": 3}, "name": "study"}, "x")
