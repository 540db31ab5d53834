"""``--help``: every command has examples that parse, every flag says what it does, and all are spelt alike."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys

import pytest

from sfmoe_dg.cli.main import COMMANDS, EXAMPLE, make_parser
from sfmoe_dg.foundation.errors import UserError

PARSER = make_parser()
SUBPARSERS = next(a for a in PARSER._actions if isinstance(a, argparse._SubParsersAction)).choices
HELPS = {"": EXAMPLE} | {name: module.EXAMPLE for name, module in COMMANDS.items()}


def examples(text: str) -> list[list[str]]:
    """The words of the lines that begin with the command, without comments, redirections and command substitutions."""
    found = re.findall(r"^  (?:eval \"\$\()?(sfmoe-dg .*?)(?:\)\".*)?$", text, flags=re.MULTILINE)
    return [shlex.split(line.partition(" > ")[0], comments=True)[1:] for line in found]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_examples_of_its_own(name):
    own = [words for words in examples(HELPS[name]) if words[0] == name]
    assert 1 <= len(own) <= 3
    assert HELPS[name].startswith("example:\n")
    assert HELPS[name].endswith("\n")


@pytest.mark.parametrize("name", HELPS)
def test_every_example_parses(name):
    for words in examples(HELPS[name]):
        if words[-1] == "--help":
            words = words[:-1]
            assert words[0] in COMMANDS
            continue
        assert PARSER.parse_args(words).command == words[0]


def test_an_example_that_is_misspelt_would_not_parse():
    (words,) = examples("example:\n  sfmoe-dg doctor --data-dir DATA    # a dash too many\n")
    assert words == ["doctor", "--data-dir", "DATA"]
    with pytest.raises(UserError, match="did you mean --data_dir"):
        PARSER.parse_args(words)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_and_word_says_what_it_does(name):
    silent = [a.dest for a in SUBPARSERS[name]._actions if not (a.help or "").strip()]
    assert not silent
    ended = [a.dest for a in SUBPARSERS[name]._actions if (a.help or "").endswith(".")]
    assert not ended, "help is no sentence: no full stop"


@pytest.mark.parametrize("name", COMMANDS)
def test_long_flags_have_underscores_as_domainbeds_have(name):
    flags = [flag for a in SUBPARSERS[name]._actions for flag in a.option_strings if flag.startswith("--")]
    assert all(re.fullmatch(r"--[a-z_]+", flag) for flag in flags)


def test_a_flag_of_several_commands_takes_the_same_kind_of_value():
    kinds: dict[str, set[tuple[object, ...]]] = {}
    for parser in SUBPARSERS.values():
        for action in parser._actions:
            for flag in action.option_strings:
                kinds.setdefault(flag, set()).add((action.type or str, action.nargs == 0))
    # Where a run finds its images, and of how many images a figure is made: both names are in use.
    assert [flag for flag, found in kinds.items() if len(found) > 1] == ["--images"]


def test_the_exit_codes_are_in_the_help_and_in_the_documentation(request):
    rows = re.findall(r"^  (\d+) +\S", EXAMPLE.partition("exit codes:")[2], flags=re.MULTILINE)
    codes = set(rows)
    assert codes == {"0", "1", "2", "75", "130", "140", "143"}
    page = (request.config.rootpath / "docs" / "command_line.md").read_text()
    assert set(re.findall(r"^\| (\d+) \|", page, flags=re.MULTILINE)) == codes


def test_help_takes_no_torch():
    code = (
        "import sys\nfrom sfmoe_dg.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'timm', 'matplotlib', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
