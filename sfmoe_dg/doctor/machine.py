"""Check software and devices: installed versions, and whether torch can compute on the devices."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from sfmoe_dg.doctor.findings import Finding, Probe, ok, problem, warning
from sfmoe_dg.foundation.cores import usable_cores
from sfmoe_dg.foundation.version import __version__

OLDEST_PYTHON = (3, 10)
DISTRIBUTION = "sfmoe-dg"
SHOWN = ("torch", "torchvision", "timm", "numpy", "pandas")
"""Packages whose versions are always reported; other dependencies are reported only if something is wrong."""
MEND = "pip install --upgrade"


def probes() -> list[Probe]:
    late = problem("devices", "torch does not come to an answer; a device may hang: try CUDA_VISIBLE_DEVICES='' first")
    return [
        Probe("python", python),
        Probe("packages", packages),
        Probe("devices", devices, seconds=60.0, late=late),
        Probe("cpu", cpu, seconds=60.0),  # as long as for devices, since both import torch
    ]


def python() -> Iterator[Finding]:
    text = f"Python {platform.python_version()} in {sys.prefix}, sfmoe-dg {__version__}"
    if sys.version_info < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        yield problem("python", f"{text}: at least {oldest} is needed; make the environment with a newer Python")
    else:
        yield ok("python", text)


def packages() -> Iterator[Finding]:
    """Whether every dependency is installed and new enough."""
    needed = oldest_versions()
    for name in dict.fromkeys((*SHOWN, *needed)):
        oldest = needed.get(name, "")
        try:
            found = version(name)
        except PackageNotFoundError:
            yield problem("packages", f"{name} is not installed, so nothing can be trained; {MEND} '{name}>={oldest}'")
            continue
        if _numbers(found) < _numbers(oldest):
            text = f"{name} {found} is older than {oldest}, with which this was tested; {MEND} '{name}>={oldest}'"
            yield warning("packages", text)
        elif name in SHOWN:
            yield ok("packages", f"{name} {found}")


def oldest_versions() -> dict[str, str]:
    """The oldest allowed version of every dependency; empty if this package is not installed."""
    try:
        lines = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return {}
    # A marker after ';' means an extra, or a package for old Pythons only.
    found = [re.fullmatch(r"([\w.-]+)>=([\d.]+)", line.replace(" ", "")) for line in lines if ";" not in line]
    return {match[1]: match[2] for match in found if match}


def _numbers(text: str) -> tuple[int, ...]:
    """The numbers of a version; () for '', which makes it the oldest of all."""
    release = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in release[0].split(".")) if release else ()


def devices() -> Iterator[Finding]:
    try:
        import torch
        import torchvision  # noqa: F401  # it fails to load with a torch of another version
    except (ImportError, OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        yield problem("devices", f"torch or torchvision cannot be imported ({reason}); {MEND} torch torchvision")
        return
    driver = nvidia_driver()
    if not torch.cuda.is_available():
        yield from _without_cuda(torch, driver)
    else:
        yield ok("devices", f"CUDA {torch.version.cuda} of torch {torch.__version__}, driver {driver or 'unknown'}")
        for number in range(torch.cuda.device_count()):
            yield _cuda_device(torch, number)
    if torch.backends.mps.is_available():
        yield ok("devices", "mps: Apple's GPU")


def _without_cuda(torch: Any, driver: str) -> Iterator[Finding]:
    built = f"torch {torch.__version__} is built " + (
        f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    )
    if not driver:
        yield ok("devices", f"no NVIDIA driver, so runs use the CPU; {built}")
    elif os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        yield ok("devices", "CUDA_VISIBLE_DEVICES is empty, so runs use the CPU")
    else:
        where = "a build of torch for that driver: https://pytorch.org/get-started/locally"
        yield warning(
            "devices", f"driver {driver} is there, but {built} and finds no GPU, so runs use the CPU; install {where}"
        )


def _cuda_device(torch: Any, number: int) -> Finding:
    try:
        facts = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        right = (torch.ones(8, device=f"cuda:{number}") * 2).sum().item() == 16
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        return problem("devices", f"cuda:{number} cannot compute ({reason}); use another with CUDA_VISIBLE_DEVICES")
    text = f"cuda:{number}: {facts.name}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
    if not right:
        return problem("devices", f"{text}: it computes 8 × 2 wrongly; do not use it")
    if facts.major < 8:
        return warning("devices", f"{text}, no fast bf16: precision bf16 will be slow, use fp32")
    if free < 2 << 30:
        return warning("devices", f"{text}: somebody else uses it; choose another with CUDA_VISIBLE_DEVICES")
    return ok("devices", f"{text}, bf16")


def nvidia_driver() -> str:
    """The version of NVIDIA's driver, or ''."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    words = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        asked = subprocess.run(words, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = asked.stdout.split()
    return lines[0] if asked.returncode == 0 and lines else ""


def cpu() -> Iterator[Finding]:
    usable, all_of_them = usable_cores(), os.cpu_count() or 1
    text = f"{usable} of {all_of_them} cores may be used"
    try:
        import torch
    except (ImportError, OSError):
        yield ok("cpu", text)  # the check of devices reports what is wrong
        return
    threads = torch.get_num_threads()
    text += f", torch takes {threads} threads{_bf16(torch)}"
    if threads > usable:
        yield warning("cpu", f"{text}, which get in each other's way; set OMP_NUM_THREADS={usable}")
    else:
        yield ok("cpu", text)


def _bf16(torch: Any) -> str:
    """Whether an x86 processor computes bf16 fast, as far as torch knows."""
    can: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if can.get("architecture") != "x86_64":
        return ""
    return ", fast bf16" if can.get("avx512_bf16") or can.get("amx_bf16") else ", no fast bf16: precision bf16 is slow"
