"""Completion: the words for each position, and the scripts in real shells."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from sfmoe_dg.algorithms.registry import ALGORITHMS
from sfmoe_dg.cli.completion_scripts import SCRIPTS
from sfmoe_dg.cli.completion_words import Slot, commands
from sfmoe_dg.cli.main import COMMANDS, main, make_parser

WORDS = {command.name: command for command in commands(make_parser())}

CASES = {
    "sfmoe-dg tr": ["train"],
    "sfmoe-dg --v": ["--version"],
    "sfmoe-dg train --algorithm SF": ["SFMoE"],
    "sfmoe-dg train --algorithm SFMoE --dataset Rot": ["RotatedMNIST"],
    "sfmoe-dg train --precision bf": ["bf16"],
    "sfmoe-dg train --steps ": [],
    "sfmoe-dg train --save_m": ["--save_model_every_checkpoint"],
    "sfmoe-dg list ba": ["backbones"],
    "sfmoe-dg completion z": ["zsh"],
    "sfmoe-dg sweep st": ["study.toml"],
    "sfmoe-dg collect --input_dir res": ["results"],
    "sfmoe-dg analyze results --what expert": ["expert-maps"],
}
"""Beginnings of lines and what is offered there, in a folder that holds study.toml and results."""
ONLY_BASH_AND_ZSH = {
    "sfmoe-dg analyze results --what parts stab": ["stability"],
    "sfmoe-dg train --skip_model_save --algorithm GM": ["GMoE"],
}


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "study.toml").touch()
    (tmp_path / "results").mkdir()
    return tmp_path


def split(line: str) -> list[str]:
    """The words of a line. After a final space, the last word is empty."""
    return shlex.split(line) + [""] * line.endswith(" ")


def run_shell(program: str, *words: str, cwd: Path) -> list[str]:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    result = subprocess.run([found, *words], capture_output=True, text=True, cwd=cwd, timeout=60)
    assert result.stderr == ""
    return result.stdout.splitlines()


def test_every_command_and_flag_is_known():
    assert list(WORDS) == list(COMMANDS)
    flags = {name: flag for flag in WORDS["train"].flags for name in flag.names}
    assert flags["--algorithm"].slot == Slot(tuple(ALGORITHMS))
    assert flags["--data_dir"].slot == Slot(paths="folders")
    assert flags["--steps"].slot == Slot()
    assert flags["--dry_run"].slot is None
    assert flags["--test_envs"].many
    assert WORDS["sweep"].slot == Slot(paths="files")
    assert "(default: ERM)" in flags["--algorithm"].help


@pytest.mark.parametrize("shell", SCRIPTS)
def test_the_command_prints_the_script(shell, capsys):
    assert main(["completion", shell]) == 0
    assert capsys.readouterr().out == SCRIPTS[shell](list(WORDS.values()))


@pytest.mark.parametrize("line", CASES | ONLY_BASH_AND_ZSH)
def test_bash(line, folder):
    words = split(line)
    script = SCRIPTS["bash"](list(WORDS.values())) + (
        f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; _sfmoe_dg\n"
        'for word in "${COMPREPLY[@]}"; do echo "$word"; done\n'
    )
    assert run_shell("bash", "-c", script, cwd=folder) == (CASES | ONLY_BASH_AND_ZSH)[line]


def test_bash_splits_at_an_equals_sign_and_keeps_names_with_spaces_whole(folder):
    (folder / "a study").mkdir()
    script = SCRIPTS["bash"](list(WORDS.values())) + (
        "COMP_WORDS=(sfmoe-dg train --algorithm = GM); COMP_CWORD=4; _sfmoe_dg; echo ${COMPREPLY[0]}\n"
        "COMP_WORDS=(sfmoe-dg collect --input_dir a); COMP_CWORD=3; _sfmoe_dg; echo ${#COMPREPLY[@]} ${COMPREPLY[0]}\n"
    )
    assert run_shell("bash", "-c", script, cwd=folder) == ["GMoE", "1 a study"]


@pytest.mark.parametrize("line", CASES | ONLY_BASH_AND_ZSH)
def test_zsh(line, folder):
    # zsh's own part, choosing among what is offered by its beginning, needs a terminal: it is stood in for.
    words = split(line)
    script = (
        'begins() { for word in "$@"; do [[ "$word" == "$PREFIX"* ]] && print -r -- "$word"; done; true }\n'
        'compadd() { shift; begins "$@" }\n_files() { begins * }\ncompdef() { : }\n'
        + SCRIPTS["zsh"](list(WORDS.values()))
        + f"words=({shlex.join(words)}); CURRENT={len(words)}; PREFIX={shlex.quote(words[-1])}; _sfmoe_dg\n"
    )
    assert run_shell("zsh", "-f", "-c", script, cwd=folder) == (CASES | ONLY_BASH_AND_ZSH)[line]


@pytest.mark.parametrize("line", CASES)
def test_fish(line, folder):
    path = folder.parent / f"{folder.name}.fish"
    path.write_text(SCRIPTS["fish"](list(WORDS.values())))
    printed = run_shell("fish", "--no-config", "-c", f"source {path}; complete -C {shlex.quote(line)}", cwd=folder)
    assert [row.partition("\t")[0].rstrip("/") for row in printed] == CASES[line]
