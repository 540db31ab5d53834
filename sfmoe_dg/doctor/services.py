"""Check the Hugging Face Hub, the Slurm cluster, optional packages, and plug-ins of installed packages."""

from __future__ import annotations

import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version

from sfmoe_dg.doctor.findings import Finding, Probe, ok, problem, warning
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.registry import REGISTRIES, open_registry

HUB = "https://huggingface.co"
HUB_SECONDS = 4.0
SLURM_SECONDS = 5.0
EXTRAS = {
    "submitit": ("slurm", "the launcher slurm"),
    "tensorboard": ("tensorboard", "the logger tensorboard"),
    "wandb": ("wandb", "the logger wandb"),
    "pyarrow": ("data", "CUB-DG's table of birds"),
    "msgpack": ("vmoe", "sfmoe-dg convert-vmoe"),
}
"""Optional packages: the extra that installs each, and what it is for."""


def probes(environment: Mapping[str, str]) -> list[Probe]:
    late = warning("hub", _without_hub(f"{HUB} does not answer"))
    return [
        Probe("hub", partial(hub, environment), seconds=2 * HUB_SECONDS, late=late),
        Probe("slurm", slurm, seconds=3 * SLURM_SECONDS),
        Probe("extras", extras),
        Probe("plug-ins", plugins, seconds=60.0),
    ]


def hub(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Whether pretrained weights can be fetched. The hub is not asked if an environment variable forbids it."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if environment.get(name, "").upper() in ("1", "ON", "YES", "TRUE"):
            yield ok("hub", f"not asked, because {name} is set: weights come from the cache or from files")
            return
    address = environment.get("HF_ENDPOINT") or HUB
    try:
        request = urllib.request.Request(address, method="HEAD")
        with urllib.request.urlopen(request, timeout=HUB_SECONDS):
            pass
    except urllib.error.HTTPError:
        pass  # the hub answers, if only with an error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        yield warning("hub", _without_hub(f"{address} cannot be reached ({reason})"))
        return
    yield ok("hub", f"{address} answers: pretrained weights can be fetched")


def _without_hub(why: str) -> str:
    return (
        f"{why}: pretrained weights that are not in the cache cannot be fetched; set HTTPS_PROXY or HF_ENDPOINT, fill "
        "the cache elsewhere, or give files with the hyper-parameter pretrained"
    )


def slurm() -> Iterator[Finding]:
    missing = [name for name in ("sinfo", "sbatch") if shutil.which(name) is None]
    if len(missing) == 2:
        yield ok("slurm", "not on this machine: the launchers local and commands work")
        return
    if missing:
        yield warning(
            "slurm", f"{missing[0]} is missing, so the launcher slurm will not work; mend the installation of Slurm"
        )
        return
    release = _first_line("sinfo", "--version")
    if not _first_line("sinfo", "--noheader", "--format=%P"):
        yield warning(
            "slurm",
            f"{release or 'sinfo'} does not reach its controller: the launcher slurm will not work; ask its operators",
        )
    elif not _version("submitit"):
        yield warning("slurm", f"{release}, but the launcher slurm needs submitit; pip install 'sfmoe-dg[slurm]'")
    else:
        yield ok("slurm", f"{release}, partitions answer, submitit {_version('submitit')}")


def _first_line(*words: str) -> str:
    try:
        asked = subprocess.run(words, capture_output=True, text=True, timeout=SLURM_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = asked.stdout.strip().splitlines()
    return lines[0] if asked.returncode == 0 and lines else ""


def extras() -> Iterator[Finding]:
    """Optional packages. A missing one is no warning: a command that needs it says so."""
    for package, (extra, purpose) in EXTRAS.items():
        found = _version(package)
        missing = f"not installed, needed only for {purpose}: pip install 'sfmoe-dg[{extra}]'"
        yield ok("extras", f"{package} {found or missing}")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def plugins() -> Iterator[Finding]:
    """Load every entry that an installed package offers."""
    for what in REGISTRIES:
        registry = open_registry(what)
        for name in registry.offers:
            try:
                registry.load(name)
            except UserError as error:
                yield problem("plug-ins", str(error))
            else:
                yield ok("plug-ins", f"{registry.kind} {name} of package {registry.package(name)}")
