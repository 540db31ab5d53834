"""``sfmoe-dg doctor``: findings on packages and devices."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from sfmoe_dg.doctor import machine
from sfmoe_dg.doctor.findings import Level


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


@pytest.mark.parametrize(
    ("capabilities", "said"),
    [
        ({"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": False}, ", fast bf16"),
        ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": True}, ", fast bf16"),
        ({"architecture": "x86_64", "avx512_bf16": False}, ", no fast bf16: precision bf16 is slow"),
        ({"architecture": "aarch64"}, ""),
        (None, ""),
    ],
)
def test_whether_a_processor_has_instructions_for_bf16(capabilities, said):
    cpu = SimpleNamespace() if capabilities is None else SimpleNamespace(get_capabilities=lambda: capabilities)
    assert machine._bf16(SimpleNamespace(cpu=cpu)) == said
