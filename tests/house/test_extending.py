"""docs/extending.md: the files that the page shows are written as they stand, and its commands run."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path

import pytest
from installed import command, install

from sfmoe_dg.cli.main import main

BLOCK = re.compile(r"^```\w+ title=\"(?P<name>[\w.]+)\"\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
CONSOLE = re.compile(r"^```console\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def sections(page: str) -> dict[str, str]:
    parts = re.split(r"^## (.+)\n", page, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def commands(text: str) -> list[list[str]]:
    lines = [line for block in CONSOLE.finditer(text) for line in block["text"].splitlines()]
    assert all(line.startswith("$ sfmoe-dg ") for line in lines)
    return [shlex.split(line)[2:] for line in lines]


@pytest.fixture(scope="module")
def page(request) -> str:
    return (request.config.rootpath / "docs" / "extending.md").read_text()


@pytest.fixture(scope="module")
def folder(page, tmp_path_factory) -> Path:
    """Every file of the page, in a folder of its own."""
    made = tmp_path_factory.mktemp("reader")
    for block in BLOCK.finditer(page):
        (made / block["name"]).write_text(block["text"])
    return made


def last_record(folder: Path) -> dict:
    return json.loads((folder / "results.jsonl").read_text().splitlines()[-1])


def test_a_file_and_a_line_for_everything_that_the_table_names(page, folder):
    files = {path.name for path in folder.iterdir()}
    assert files == {
        *(f"my_{what}.py" for what in ("objective", "backbone", "moe", "dataset", "launcher", "analysis")),
        "study.toml",
        "pyproject.toml",
    }
    for path in folder.glob("my_*.py"):
        (line,) = (line for line in path.read_text().splitlines() if ".register(" in line)
        registered = line.partition(".register(")[0]
        assert f"`{registered}.register(" in page.partition("## ")[0]
        assert path.read_text().endswith(line + "\n")


@pytest.mark.slow
def test_what_the_page_says_works(page, folder, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    found = sections(page)
    for title in ("An objective", "A backbone", "A mixture of experts", "A data set", "A launcher", "An analysis"):
        for words in commands(found[title]):
            assert main(words) == 0, f"{title}: {capfd.readouterr().err}"
    results = folder / "results"
    assert last_record(results / "objective")["decay"] > 0
    assert last_record(results / "backbone")["hparams"]["backbone"] == "tiny_grid"
    assert last_record(results / "moe")["hparams"]["token_scale"] == 0.5
    assert last_record(results / "dataset")["args"]["dataset"] == "Stripes"
    assert len(list((results / "launcher").glob("*/done"))) == 2
    drawn = (results / "objective" / "figures" / "sure_and_right.csv").read_text().splitlines()
    assert drawn[0] == "domain,sure,right"
    assert len(drawn) == 1 + 4


@pytest.mark.slow
def test_the_files_as_a_package(page, folder, tmp_path):
    install(folder, tmp_path / "site")
    listed, trained = commands(sections(page)["As a package"])
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    result = command(*listed, cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr
    assert "from my-domain-generalization 1.0" in result.stdout
    result = command(*trained, cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr
    assert last_record(tmp_path / "results" / "package")["hparams"]["backbone"] == "tiny_grid"
