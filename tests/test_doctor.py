"""``sfmoe-dg doctor``: what it says of machines that lack something, and that it never hangs or fails itself."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from sfmoe_dg import doctor
from sfmoe_dg.cli import main
from sfmoe_dg.data.builders.recipe import Recipe
from sfmoe_dg.data.catalog import CATALOG, facts
from sfmoe_dg.doctor import Finding, Level, Probe, datasets, disks, examine, machine, ok, problem, services, warning


def levels(findings: Iterator[Finding]) -> list[Level]:
    return [finding.level for finding in findings]


# -------------------------------------------------------------------------------------------------------- asking


def test_answers_come_in_order_and_a_question_that_hangs_or_fails_is_one_too():
    release = threading.Event()

    def fails() -> Iterator[Finding]:
        yield ok("b", "begun")
        raise RuntimeError("what nobody\nforesaw")

    def hangs() -> Iterator[Finding]:
        release.wait()
        yield ok("c", "too late")

    questions = [
        Probe("a", lambda: iter([ok("a", "1"), warning("a", "2")])),
        Probe("b", fails),
        Probe("c", hangs, seconds=0.1, late=problem("c", "hangs")),
        Probe("d", hangs, seconds=0.1),
    ]
    found = list(examine(questions))
    release.set()
    assert found[:2] == [ok("a", "1"), warning("a", "2")]
    assert found[2] == ok("b", "begun")
    assert found[3] == warning("b", "this check itself failed (RuntimeError: what nobody); please report it")
    assert found[4] == problem("c", "hangs")
    assert found[5] == warning("d", "no answer within 0.1 s; look at what it waits for")


@pytest.mark.parametrize(("worst", "code"), [(ok, 0), (warning, 0), (problem, 1)])
def test_only_a_problem_is_an_exit_code(worst, code, monkeypatch, capsys):
    asked = {}

    def probes(data_dir, output_dir, environment):
        asked.update(data_dir=data_dir, output_dir=output_dir)
        return [Probe("x", lambda: iter([ok("x", "fine"), worst("y", "so so")]))]

    monkeypatch.setattr(doctor, "probes", probes)
    assert main(["doctor", "--data_dir", "D"]) == code
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].split() == ["ok", "x", "fine"]
    assert asked == {"data_dir": "D", "output_dir": "."}
    assert main(["doctor", "--json"]) == code
    expected = {"ok": ok, "warning": warning, "problem": problem}
    parsed = json.loads(capsys.readouterr().out)
    assert [expected[entry["level"]](entry["topic"], entry["text"]) for entry in parsed] == [
        ok("x", "fine"),
        worst("y", "so so"),
    ]


def test_a_whole_examination_of_this_machine(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PATH", str(tmp_path))
    main(["doctor", "--output_dir", str(tmp_path / "later"), "--data_dir", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    topics = list(dict.fromkeys(line[9:22].strip() for line in lines[:-1]))
    assert [topic for topic in topics if topic != "shared memory"] == [
        "python",
        "packages",
        "devices",
        "cpu",
        "disk",
        "data",
        "hub",
        "slurm",
        "extras",
    ]
    assert not any("this check itself failed" in line for line in lines)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------------- machine


def test_all_that_wait_for_torch_are_given_the_same_time():
    seconds = {probe.topic: probe.seconds for probe in machine.probes()}
    assert seconds["cpu"] == seconds["devices"] > seconds["python"]


def test_releases_are_compared_by_number():
    assert machine._numbers("2.9.1+cu126") == (2, 9, 1) < machine._numbers("2.11.0.dev1") == (2, 11, 0)
    assert machine._numbers("") == () < machine._numbers("0.1")


def test_a_package_that_is_missing_and_one_that_is_old(monkeypatch):
    installed = {"torch": "2.10.3", "torchvision": "0.26", "numpy": "1.26.4", "pandas": "2.2"}

    def version(name: str) -> str:
        if name not in installed:
            raise machine.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(machine, "version", version)
    monkeypatch.setattr(
        machine, "requires", lambda name: ["torch>=2.11", "numpy >= 1.26", "timm>=1.0", 'wandb>=0.19; extra == "wandb"']
    )
    found = list(machine.packages())
    assert [(f.level.value, f.text.split()[0]) for f in found] == [
        ("warning", "torch"),
        ("ok", "torchvision"),
        ("problem", "timm"),
        ("ok", "numpy"),
        ("ok", "pandas"),
    ]
    assert found[0].text.endswith("pip install --upgrade 'torch>=2.11'")
    assert "timm is not installed" in found[2].text


@pytest.mark.parametrize(
    ("driver", "built", "level", "said"),
    [
        ("", None, Level.OK, "no NVIDIA driver, so runs use the CPU; torch 2.15 is built without CUDA"),
        ("550.1", None, Level.WARNING, "driver 550.1 is there, but torch 2.15 is built without CUDA and finds no GPU"),
        ("550.1", "13.0", Level.WARNING, "torch 2.15 is built for CUDA 13.0 and finds no GPU"),
    ],
)
def test_without_a_gpu(driver, built, level, said, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    torch = SimpleNamespace(__version__="2.15", version=SimpleNamespace(cuda=built))
    (found,) = machine._without_cuda(torch, driver)
    assert found.level is level
    assert said in found.text


class FakeTorch:
    """A torch with one GPU, whose sums may be wrong."""

    def __init__(self, total: float = 16, free: int = 70, major: int = 9, fails: bool = False) -> None:
        self.cuda = self
        self._facts, self._memory, self._fails = (
            SimpleNamespace(name="H100", major=major),
            (free << 30, 80 << 30),
            fails,
        )
        self.item = lambda: total

    def get_device_properties(self, number):
        return self._facts

    def mem_get_info(self, number):
        return self._memory

    def ones(self, count, device):
        if self._fails:
            raise RuntimeError("no kernel image\nis available")
        return self

    def __mul__(self, factor):
        return self

    def sum(self):
        return self


@pytest.mark.parametrize(
    ("torch", "level", "said"),
    [
        (FakeTorch(), Level.OK, "cuda:1: H100, 70 of 80 GiB free, bf16"),
        (FakeTorch(major=7), Level.WARNING, "no fast bf16"),
        (FakeTorch(free=1), Level.WARNING, "somebody else uses it"),
        (FakeTorch(total=15), Level.PROBLEM, "computes 8 × 2 wrongly"),
        (FakeTorch(fails=True), Level.PROBLEM, "cuda:1 cannot compute (no kernel image);"),
    ],
)
def test_a_gpu(torch, level, said):
    found = machine._cuda_device(torch, 1)
    assert found.level is level
    assert said in found.text


# --------------------------------------------------------------------------------------------------------- disks


@pytest.mark.parametrize(
    ("free", "files", "expected"),
    [
        (50 << 30, 10**6, [Level.OK]),
        (5 << 30, 10**6, [Level.WARNING]),
        (1 << 29, 10**6, [Level.PROBLEM]),
        (50 << 30, 100, [Level.OK, Level.PROBLEM]),
    ],
)
def test_room(free, files, expected, monkeypatch, tmp_path):
    monkeypatch.setattr(disks.shutil, "disk_usage", lambda place: SimpleNamespace(free=free))
    monkeypatch.setattr(disks.os, "statvfs", lambda place: SimpleNamespace(f_files=10**7, f_favail=files))
    assert levels(disks.room(tmp_path / "a" / "b")) == expected


def test_a_file_system_that_counts_no_files_is_no_problem(monkeypatch, tmp_path):
    monkeypatch.setattr(disks.shutil, "disk_usage", lambda place: SimpleNamespace(free=50 << 30))
    monkeypatch.setattr(disks.os, "statvfs", lambda place: SimpleNamespace(f_files=0, f_favail=0))
    assert levels(disks.room(tmp_path)) == [Level.OK]


def test_the_folder_that_is_asked_is_the_nearest_that_exists(tmp_path):
    assert disks.existing(tmp_path / "a" / "b") == tmp_path
    assert disks.existing(tmp_path) == tmp_path


def test_what_a_disk_can_do_is_tried_and_nothing_is_left(tmp_path):
    assert levels(disks.abilities(tmp_path / "later")) == [Level.OK]
    assert not list(tmp_path.iterdir())


def test_a_disk_that_renames_or_creates_wrongly_is_a_problem_and_one_without_locks_a_warning(tmp_path, monkeypatch):
    def no_locks(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert levels(disks.abilities(tmp_path)) == [Level.WARNING]
    monkeypatch.setattr(disks.os, "replace", lambda old, new: None)
    (found,) = disks.abilities(tmp_path)
    assert found.level is Level.PROBLEM
    assert found.text.startswith("atomic renaming does not work")


def test_a_place_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    (found,) = disks.abilities(tmp_path / "file")
    assert (found.level, "cannot be written to (Not a directory)" in found.text) == (Level.PROBLEM, True)


@pytest.mark.parametrize(("size", "level"), [(64 << 20, Level.WARNING), (8 << 30, Level.OK)])
def test_shared_memory(size, level, monkeypatch, tmp_path):
    monkeypatch.setattr(disks, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(disks.shutil, "disk_usage", lambda place: SimpleNamespace(total=size))
    assert levels(disks.shared_memory()) == [level]


# ---------------------------------------------------------------------------------------------------------- data


def make_images(root: Path, counts: dict[str, dict[str, int]]) -> None:
    for domain, classes in counts.items():
        for name, count in classes.items():
            (root / domain / name).mkdir(parents=True)
            for i in range(count):
                (root / domain / name / f"{i}.png").touch()


SMALL = Recipe(
    name="Small",
    folder="small",
    sources=(),
    prepare=lambda sources, target: [],
    domains=("a", "b"),
    published={"a": 3, "b": 2},
    num_classes=2,
)


@pytest.mark.parametrize(
    ("counts", "level", "said"),
    [
        ({"a": {"x": 2, "y": 1}, "b": {"x": 1, "y": 1}}, Level.OK, "Small: 5 images, as published"),
        (
            {"a": {"x": 1, "y": 1}, "b": {"x": 1, "y": 1}},
            Level.WARNING,
            "Small: 4 images, published are 5: a holds 2 images, 1 fewer than the 3 of the published copy; results",
        ),
        ({"a": {"x": 2, "y": 1}}, Level.PROBLEM, "missing: domain b; it cannot be trained on, build it again"),
        ({"a": {"x": 3}, "b": {"x": 2}}, Level.PROBLEM, "there are 1 classes, not 2"),
    ],
)
def test_a_data_set_that_is_there(counts, level, said, tmp_path):
    make_images(tmp_path / "small", counts)
    (found,) = datasets.whole(tmp_path, SMALL)
    assert found.level is level
    assert said in found.text


def test_a_data_set_that_is_absent_is_named_once_and_one_that_cannot_be_read_is_a_problem(tmp_path):
    assert list(datasets.whole(tmp_path, SMALL)) == []
    (tmp_path / "camelyon17_v1.0").mkdir()
    (found,) = datasets.absent(tmp_path)
    assert found.level is Level.OK
    assert "PACS" in found.text
    assert "ColoredMNIST and RotatedMNIST, " in found.text
    assert "Camelyon" not in found.text
    (recipe,) = (
        r for f, e in datasets.by_folder().items() if (r := datasets._recipe(f, e)) and r.name == "WILDSCamelyon"
    )
    (found,) = datasets.whole(tmp_path, recipe)
    assert found.level is Level.PROBLEM
    assert "metadata.csv is missing" in found.text
    (tmp_path / "camelyon17_v1.0/metadata.csv").write_text("patient,node\n1,2\n")
    (found,) = datasets.whole(tmp_path, recipe)
    assert found.level is Level.PROBLEM
    assert "camelyon17_v1.0 is damaged (KeyError('x_coord')); build WILDSCamelyon again" in found.text
    assert levels(datasets.absent(tmp_path / "nowhere")) == [Level.PROBLEM]


def test_every_data_set_with_a_folder_can_be_counted():
    recipes = {folder: datasets._recipe(folder, entries) for folder, entries in datasets.by_folder().items()}
    assert set(recipes) == {facts(name).folder for name in CATALOG.registered if facts(name).folder}
    assert None not in recipes.values()
    pacs, digits, dogs = recipes["PACS"], recipes["MNIST"], recipes["spawrious224"]
    assert pacs is not None
    assert pacs.published == dict(zip(facts("PACS").domains, (2048, 2344, 1670, 3929), strict=True))
    assert digits is not None
    assert sum(digits.published.values()) == sum(facts("RotatedMNIST").counts) == sum(facts("ColoredMNIST").counts)
    assert dogs is not None
    assert len(dogs.domains) == 6 * 3


def test_the_real_sample_is_told_from_the_whole(shared_data):
    recipe = datasets._recipe("PACS", [facts("PACS")])
    assert recipe is not None
    (found,) = datasets.whole(shared_data, recipe)
    assert found.level is Level.WARNING
    assert "PACS: 1998 images, published are 9991" in found.text


# ------------------------------------------------------------------------------------------------------ services


@pytest.fixture
def server() -> Iterator[str]:
    """The address of a server that knows no page."""

    class NotFound(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(404)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), NotFound) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()
        thread.join()


def test_the_hub(server, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    (found,) = services.hub({"HF_ENDPOINT": server})
    assert (found.level, found.text) == (Level.OK, f"{server} answers: pretrained weights can be fetched")
    (found,) = services.hub({"HF_ENDPOINT": "http://127.0.0.1:1", "HF_HUB_OFFLINE": "0"})
    assert found.level is Level.WARNING
    assert "http://127.0.0.1:1 cannot be reached" in found.text
    assert levels(services.hub({"HF_ENDPOINT": "no address"})) == [Level.WARNING]
    (found,) = services.hub({"HF_ENDPOINT": "http://127.0.0.1:1", "HF_HUB_OFFLINE": "1"})
    assert (found.level, "because HF_HUB_OFFLINE is set" in found.text) == (Level.OK, True)


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(services, "_version", lambda package: "1.5")
    assert levels(services.slurm()) == [Level.OK]
    program(tmp_path, "sinfo", 'case "$1" in --version) echo slurm 24.05;; *) echo main;; esac')
    (found,) = services.slurm()
    assert (found.level, "sbatch is missing" in found.text) == (Level.WARNING, True)
    program(tmp_path, "sbatch", "exit 0")
    assert list(services.slurm()) == [ok("slurm", "slurm 24.05, partitions answer, submitit 1.5")]
    monkeypatch.setattr(services, "_version", lambda package: "")
    (found,) = services.slurm()
    assert (found.level, "pip install 'sfmoe-dg[slurm]'" in found.text) == (Level.WARNING, True)
    program(tmp_path, "sinfo", 'case "$1" in --version) echo slurm 24.05;; *) exit 1;; esac')
    (found,) = services.slurm()
    assert (found.level, "slurm 24.05 does not reach its controller" in found.text) == (Level.WARNING, True)


def test_a_program_that_hangs_is_given_up(tmp_path, monkeypatch):
    program(tmp_path, "sinfo", "exec sleep 60")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(services, "SLURM_SECONDS", 0.2)
    assert services._first_line("sinfo") == ""
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(["sinfo"], timeout=0.2)


def test_extras_that_are_missing_say_what_for(monkeypatch):
    monkeypatch.setattr(services, "_version", lambda package: "1.0" if package == "wandb" else "")
    found = {finding.text.split()[0]: finding for finding in services.extras()}
    assert {finding.level for finding in found.values()} == {Level.OK}
    assert found["wandb"].text == "wandb 1.0"
    assert found["msgpack"].text.endswith("needed only for sfmoe-dg convert-vmoe: pip install 'sfmoe-dg[vmoe]'")


def test_extras_are_those_of_the_package(request):
    project = (request.config.rootpath / "pyproject.toml").read_text()
    for package, (extra, _) in services.EXTRAS.items():
        assert f'{extra} = ["{package}>=' in project
