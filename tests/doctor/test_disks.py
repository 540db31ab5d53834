"""Full and read-only disks: one clear sentence, nothing is lost, and the run resumes once there is room."""

import json
import os
import subprocess
from contextlib import contextmanager

import pytest
import torch
from PIL import Image

from sfmoe_dg.cli.main import main
from sfmoe_dg.foundation.files import write_atomic
from sfmoe_dg.runs.records import append_record

RUN = ["train", "--dataset", "Debug28", "--steps", "5", "--checkpoint_freq", "2", "--device", "cpu"]
RUN += ["--num_workers", "0", "--hparams", '{"batch_size": 4}']


@contextmanager
def mounted(folder, options):
    """A small file system in memory, where this user may mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        made = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if made.returncode != 0:
        pytest.skip(f"only root can mount a small disk ({made.stderr.strip()})")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def remount(folder, options):
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def results(folder):
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("step_time")
        line["args"].pop("output_dir")
    return lines


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert main([*RUN, "--output_dir", str(folder)]) == 0
    return folder


# 4 kB: no room for the first small file; 1 MB: none for the first checkpoint; 7 MB: none for the second copy of it.
@pytest.mark.parametrize("size", ["4k", "64k", "1m", "7m"])
def test_a_full_disk_is_said_and_the_run_goes_on_when_there_is_room(tmp_path, capsys, whole_run, size):
    with mounted(tmp_path / "a dïsk", f"size={size}") as disk:
        (disk / "ballast").write_bytes(b"x" * 2000)
        folder = disk / "run"
        assert main([*RUN, "--output_dir", str(folder)]) == 2
        message = capsys.readouterr().err
        assert "No space left on device" in message
        assert str(folder) in message
        assert message.count("\n") == 1
        assert not (folder / "done").exists()
        assert not list(folder.glob("lease*"))
        remount(disk, "size=100m")
        assert main([*RUN, "--output_dir", str(folder)]) == 0
        assert results(folder) == results(whole_run)
        models = [torch.load(run / "model.pkl", weights_only=True)["model_dict"] for run in (folder, whole_run)]
        assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
        # Records that were there before the first checkpoint are kept aside.
        left = {path.name for path in folder.iterdir()} - {"results.interrupted.jsonl"}
        assert left == {path.name for path in whole_run.iterdir()}


def test_an_output_folder_that_cannot_be_written(tmp_path, capsys):
    with mounted(tmp_path / "disk", "size=1m,ro") as disk:
        for words in (RUN, ["sweep", "sweeps/smoke.toml"]):
            assert main([*words, "--output_dir", str(disk / "run")]) == 2
            assert f"Read-only file system: {disk / 'run'}" in capsys.readouterr().err


@pytest.mark.parametrize("options", ["size=1m,ro", "size=8k"])
def test_a_cache_that_cannot_be_written(tmp_path, capsys, options):
    for domain in ("art", "photo", "sketch"):
        for name in ("cat", "dog"):
            (tmp_path / "images" / domain / name).mkdir(parents=True)
            for i in range(6):
                path = tmp_path / "images" / domain / name / f"{i}.png"
                Image.effect_noise((64, 64), 50).convert("RGB").save(path)
    words = ["train", "--dataset", "ImageFolder", "--data_dir", str(tmp_path / "images"), "--steps", "1"]
    words += ["--images", "cached", "--hparams", '{"batch_size": 2, "backbone": "test_resnet", "pretrained": false}']
    with mounted(tmp_path / "cache", options) as cache:
        assert main([*words, "--cache_dir", str(cache), "--output_dir", str(tmp_path / "run")]) == 2
        message = capsys.readouterr().err
        assert str(cache) in message
        assert "Read-only file system" in message or "No space left on device" in message
    assert not (tmp_path / "run").exists()


def test_errors_of_the_file_system_name_the_file(tmp_path):
    with mounted(tmp_path / "disk", "size=8k") as disk:
        (disk / "first").write_bytes(b"x" * 4096)
        with pytest.raises(OSError, match=r"No space left on device: '.*/second'"):
            write_atomic(disk / "second", b"x" * 9000)
        with pytest.raises(OSError, match=r"/third: only \d+ of 9010 bytes of a record were written; is the disk full"):
            append_record(disk / "third", {"a": "x" * 9000})
        with pytest.raises(OSError, match=r"No space left on device: '.*/third'"):
            append_record(disk / "third", {"a": 1})
        assert sorted(os.listdir(disk)) == ["first", "third"]
