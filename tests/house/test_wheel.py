"""The wheel and the source distribution: their content, and that the package works from the wheel alone."""

from __future__ import annotations

import email
import json
import os
import shutil
import site
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import sfmoe_dg

ROOT = Path(__file__).parents[2]
BUILT_FROM = ["LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "sfmoe_dg"]
NOT_PACKAGED = ["analysis", "bench", "datasets", "sweeps", "tests"]
"""Folders that a build could pick up, and must not."""
MADE_BY_BUILDING = ["PKG-INFO", "setup.cfg", "sfmoe_dg.egg-info"]
DATA = [
    "py.typed",
    "analysis/explorer/explorer.html",
    "analysis/explorer/explorer.css",
    "analysis/explorer/explorer.js",
    "results/page/page.css",
    "results/page/page.js",
    "analysis/compare/published/domainbed.csv",
]

STUDY = """
datasets = ["StyledDigits"]
algorithms = ["ERM", "SFMoE"]
n_trials = 1
n_hparams = 1
test_envs = [[0]]
steps = 2
checkpoint_freq = 1
hparams = { batch_size = 2 }
launch = { threads = 1 }
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository, since a build leaves its traces where it works."""
    folder = tmp_path_factory.mktemp("repository")
    for name in [*BUILT_FROM, *NOT_PACKAGED]:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def built(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution and the wheel that was made of it."""
    return build(source, tmp_path_factory.mktemp("built"))


def build(source: Path, target: Path, *which: str) -> Path:
    run(sys.executable, "-m", "build", "--no-isolation", *which, "--outdir", target, source, cwd=target)
    return target


def run(*words: object, **settings: object) -> str:
    """The output of a program that must succeed and that cannot import from this repository."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(word) for word in words]
    done = subprocess.run(command, capture_output=True, text=True, **({"env": environment} | settings))
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def package_files(source: Path) -> set[str]:
    files = (path for path in (source / "sfmoe_dg").rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(source).as_posix() for path in files}


def wheel_of(folder: Path) -> Path:
    (wheel,) = folder.glob("*.whl")
    return wheel


def content(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_is_the_whole_package_and_nothing_else(source: Path, built: Path) -> None:
    files = content(wheel_of(built))
    about = f"sfmoe_dg-{sfmoe_dg.__version__}.dist-info/"
    assert {name for name in files if not name.startswith(about)} == package_files(source)
    assert {f"sfmoe_dg/{name}" for name in DATA} <= set(files)
    assert not [name for name, held in files.items() if os.fsencode(source) in held or os.fsencode(ROOT) in held]


def test_the_source_distribution_has_what_a_build_needs_and_no_more(source: Path, built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert {name.partition("/")[0] for name in names} == {*BUILT_FROM, *MADE_BY_BUILDING}
    assert {name for name in names if name.startswith("sfmoe_dg/")} == package_files(source)


def test_the_repository_gives_the_wheel_that_the_source_distribution_gives(
    source: Path, built: Path, tmp_path: Path
) -> None:
    assert content(wheel_of(build(source, tmp_path, "--wheel"))) == content(wheel_of(built))


def test_metadata(built: Path) -> None:
    name = f"sfmoe_dg-{sfmoe_dg.__version__}.dist-info/METADATA"
    about = email.message_from_bytes(content(wheel_of(built))[name])
    assert about["Version"] == sfmoe_dg.__version__
    assert about["Requires-Python"] == ">=3.10"
    versions = [text.rpartition(" ")[2] for text in about.get_all("Classifier", []) if ":: Python :: 3." in text]
    assert versions == ["3.10", "3.11", "3.12", "3.13"]
    assert about["Description-Content-Type"] == "text/markdown"
    text = about.get_payload(decode=True)
    assert isinstance(text, bytes)
    assert text.decode().strip() == (ROOT / "README.md").read_text(encoding="utf-8").strip()


@pytest.fixture(scope="module")
def programs(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has the wheel, and borrows everything else from this one.

    A folder named by a .pth file is searched for packages, but .pth files in it are not read: an editable install of
    this project stays unseen. It is borrowed after the installation, so that pip finds none that it would remove.
    """
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python]
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel_of(built))
    own = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    assert folder in own.parents
    (own / "borrowed.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return python.parent


def test_everything_works_where_only_the_wheel_is(programs: Path, source: Path, tmp_path: Path) -> None:
    """One study from its file to its report, in a folder of its own; every command must succeed."""
    environment = os.environ | {"HOME": str(tmp_path), "SFMOE_DG_CACHE": str(tmp_path / "cache")}
    environment.pop("PYTHONPATH", None)

    def command(*words: str) -> str:
        return run(programs / "sfmoe-dg", *words, cwd=tmp_path, env=environment)

    def python(code: str) -> str:
        return run(programs / "python", "-c", code, cwd=tmp_path, env=environment).strip()

    assert programs.parent in Path(python("import sfmoe_dg; print(sfmoe_dg.__file__)")).parents
    assert "SFMoE" in command("list", "algorithms").split()
    assert f"sfmoe-dg {sfmoe_dg.__version__}" in command("doctor")
    assert "complete" in command("completion", "bash")

    hparams = json.dumps({"batch_size": 2})
    words = ["--dataset", "StyledDigits", "--algorithm", "SFMoE", "--test_envs", "3", "--steps", "2"]
    command("train", *words, "--hparams", hparams, "--output_dir", "one")
    assert (tmp_path / "one" / "done").is_file()
    assert python("import sfmoe_dg; print(len(sfmoe_dg.load('one').class_names))") == "10"

    (tmp_path / "study.toml").write_text(STUDY)
    command("sweep", "study.toml", "--output_dir", "study", "--jobs", "1")
    assert len(list((tmp_path / "study").glob("*/done"))) == 2
    table = command("collect", "--input_dir", "study")
    assert "ERM" in table
    assert "SFMoE" in table
    command("report", "--output_dir", "study", "--images", "2")
    script = (source / "sfmoe_dg" / "analysis" / "explorer" / "explorer.js").read_text(encoding="utf-8")
    assert script.strip() in (tmp_path / "study" / "report.html").read_text(encoding="utf-8")
    assert (
        int(python("from sfmoe_dg.analysis.compare.published_numbers import published; print(len(published()))")) > 100
    )
