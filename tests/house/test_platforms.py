"""What differs on a Mac, as far as Linux can show it: spawned workers, no /proc, no processor sets, Apple's GPU."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sfmoe_dg.data.batches.workers import auto_num_workers
from sfmoe_dg.data.cub_dg import build as cub_dg
from sfmoe_dg.foundation.cores import usable_cores
from sfmoe_dg.foundation.devices import pick_device
from sfmoe_dg.foundation.glibc_memory import keep_freed_memory
from sfmoe_dg.runs import lease, owner
from sfmoe_dg.training.checkpoint import Random

SPAWN = """
import multiprocessing
import os
from multiprocessing import popen_spawn_posix
from pathlib import Path

started = Path(os.environ["STARTED"])
launch = popen_spawn_posix.Popen._launch


def counted(self, process):
    with started.open("a") as file:
        file.write(process.name + "\\n")
    launch(self, process)


popen_spawn_posix.Popen._launch = counted
multiprocessing.set_start_method("spawn")
"""
"""A plug-in that has workers start as they do on a Mac, and notes each."""


def write_pictures(root: Path) -> Path:
    """Three domains × two classes × five pictures."""
    random = np.random.default_rng(0)
    for domain in "abc":
        for name in ("cat", "dog"):
            (root / domain / name).mkdir(parents=True)
            for i in range(5):
                pixels = random.integers(0, 256, (36, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / domain / name / f"{i}.png")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("images", ["files", "cached"])
def test_a_run_with_spawned_workers_gives_the_records_of_one_without_workers(tmp_path: Path, images: str) -> None:
    (tmp_path / "spawn.py").write_text(SPAWN)
    hparams = json.dumps({"batch_size": 2, "backbone": "resnet18", "pretrained": False})
    words = [sys.executable, "-m", "sfmoe_dg", "train", "--dataset", "ImageFolder", "--algorithm", "ERM"]
    words += ["--data_dir", str(write_pictures(tmp_path / "pictures")), "--test_envs", "0", "--steps", "2"]
    words += ["--hparams", hparams, "--images", images, "--device", "cpu", "--cache_dir", str(tmp_path / "cache")]
    words += ["--plugin", str(tmp_path / "spawn.py")]
    for workers in (0, 2):
        more = ["--num_workers", str(workers), "--output_dir", str(tmp_path / str(workers))]
        environment = os.environ | {"STARTED": str(tmp_path / f"started{workers}")}
        done = subprocess.run([*words, *more], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert not (tmp_path / "started0").exists()
    assert len((tmp_path / "started2").read_text().splitlines()) >= 2
    without, with_workers = ([measured(line) for line in lines(tmp_path / str(n))] for n in (0, 2))
    assert len(without) == 2
    assert without == with_workers


def lines(folder: Path) -> list[str]:
    return (folder / "results.jsonl").read_text().splitlines()


def measured(line: str) -> dict[str, object]:
    """The values of a record without times, memory and folders."""
    return {key: value for key, value in json.loads(line).items() if key not in ("step_time", "mem_gb", "args")}


def test_without_processor_sets_all_processors_count(monkeypatch: pytest.MonkeyPatch) -> None:
    class Files:
        in_memory = False

    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert auto_num_workers(Files()) == 2  # type: ignore[arg-type]
    assert usable_cores() == cub_dg._auto_jobs(torch.device("cpu")) == 3


@pytest.fixture
def no_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    read_text = Path.read_text

    def read(self: Path, *args: str, **kwargs: str) -> str:
        if self.parts[:2] == ("/", "proc"):
            raise FileNotFoundError(self)
        return read_text(self, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", read)


@pytest.mark.usefixtures("no_proc")
def test_without_proc_a_process_is_known_by_host_and_number(tmp_path: Path) -> None:
    me = owner.this_process()
    assert (me.machine, me.birth) == (socket.gethostname(), "")
    assert owner.liveness(me) is owner.Liveness.ALIVE
    gone = multiprocessing.get_context("spawn").Process(target=int)
    gone.start()
    gone.join()
    assert gone.pid is not None
    assert owner.liveness(replace(me, pid=gone.pid)) is owner.Liveness.DEAD
    with lease.acquire(tmp_path / "run"), pytest.raises(lease.Owned, match="its lease is alive"):
        lease.acquire(tmp_path / "run", patience=0.1)


def test_on_a_mac_the_c_library_is_not_told_about_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()


@pytest.mark.parametrize(("cuda", "mps", "picked"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_auto_prefers_cuda_then_apples_gpu(monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, picked: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch, "empty", lambda *shape, device: None)
    assert pick_device("auto").type == picked


def test_a_run_goes_on_with_the_random_numbers_of_an_apple_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: torch.tensor([7]))
    monkeypatch.setattr(torch.mps, "set_rng_state", given.append)
    state = Random.now(torch.device("mps"))
    state.restore(torch.device("mps"))
    state.restore(torch.device("cpu"))
    assert [value.tolist() for value in given] == [[7]]


@pytest.mark.slow
def test_nothing_is_asked_of_the_standard_library_that_macos_or_the_oldest_python_lacks(tmp_path: Path) -> None:
    """By what mypy knows of modules; other packages are left out, so that it takes seconds. The probe uses two."""
    probe = tmp_path / "probe.py"
    probe.write_text("import datetime, os\n\nos.sched_getaffinity(0), datetime.UTC\n")
    words = ["--platform", "darwin", "--follow-imports", "skip", "--cache-dir", str(tmp_path), "sfmoe_dg", str(probe)]
    command = [sys.executable, "-m", "mypy", "--python-version", "3.10", *words]
    root = Path(__file__).parents[2]
    found = subprocess.run(command, cwd=root, capture_output=True, text=True).stdout.splitlines()
    lacking = [line for line in found if "Module has no attribute" in line]
    assert [line.split('"')[1] for line in lacking] == ["sched_getaffinity", "UTC"], lacking
    assert all("probe.py" in line for line in lacking)
