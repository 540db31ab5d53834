"""The scripts in ``analysis/``: each draws one figure whose caption says n, unit and what it does not show."""

import ast
import re
import runpy
import sys
from pathlib import Path

import pandas as pd
import pytest
from test_figures import assert_readable

from sfmoe_dg.analysis.subject.subject import Subject
from sfmoe_dg.cli.main import main

FOLDER = Path(__file__).parents[2] / "analysis"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py"))
OF_A_SWEEP_OF_VARIANTS = "sf_moe_ablation"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Two tiny runs on StyledDigits, sparse and dense."""
    root = tmp_path_factory.mktemp("sweep")
    for name, algorithm in (("a", "VMoE"), ("b", "ERM")):
        flags = ["--steps", "2", "--checkpoint_freq", "2", "--test_envs", "3", "--output_dir", str(root / name)]
        assert main(["train", "--dataset", "StyledDigits", "--algorithm", algorithm, *flags]) == 0
    return root


def run_script(name, monkeypatch, *arguments):
    """Run a script with these arguments; returns its exit code."""
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    return ended.value.code


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_says_paper_axes_what_to_look_for_and_what_it_needs(name):
    text = ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text()))
    for word in ("Paper", "Axes", "Look for", "Needs"):
        assert re.search(rf"^{word}  ", text, re.MULTILINE), word
    assert f"python analysis/{name}.py" in text
    assert f"({name}.py)" in (FOLDER / "README.md").read_text()


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name != OF_A_SWEEP_OF_VARIANTS])
def test_a_script_draws_one_readable_figure(name, sweep, tmp_path, monkeypatch):
    drawing = runpy.run_path(str(FOLDER / f"{name}.py"))["draw"](Subject(sweep, images=10, prefer="VMoE"))
    assert drawing.name == name
    assert len(drawing.data) > 0
    assert_readable(drawing.figure)
    assert re.fullmatch(r".*\. n: .*\d.*\. Unit: .*\. Not shown: .*\.", drawing.caption)


def test_a_script_saves_its_figure_and_says_where(sweep, tmp_path, monkeypatch, capsys):
    code = run_script("v_moe_expert_by_class", monkeypatch, sweep, "--output_dir", tmp_path, "--images", 5)
    assert code == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        f"v_moe_expert_by_class.{s}" for s in ("png", "pdf", "csv", "txt")
    }
    caption = (tmp_path / "v_moe_expert_by_class.txt").read_text()
    assert capsys.readouterr().out == f"{tmp_path}/v_moe_expert_by_class.png: {caption}"
    assert set(pd.read_csv(tmp_path / "v_moe_expert_by_class.csv").columns) == {"layer", "expert", "class", "frequency"}


@pytest.mark.parametrize(
    ("name", "message"),
    [("v_moe_capacity", "not drawn: ERM (held out neon) has no experts"), (OF_A_SWEEP_OF_VARIANTS, "is no ablation")],
)
def test_what_does_not_apply_is_one_sentence_and_exit_code_3(name, message, sweep, tmp_path, monkeypatch, capsys):
    assert run_script(name, monkeypatch, sweep / "b", "--output_dir", tmp_path, "--device", "cpu") == 3
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not list(tmp_path.iterdir())
    assert "NOT_APPLICABLE := 3\n" in (FOLDER.parent / "Makefile").read_text()


def test_bad_input_is_one_sentence_and_exit_code_2(tmp_path, monkeypatch, capsys):
    assert run_script("v_moe_capacity", monkeypatch, tmp_path / "nowhere") == 2
    assert capsys.readouterr().err.startswith(f"sfmoe-dg: error: {tmp_path}/nowhere is no folder")
