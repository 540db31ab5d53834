"""Print a script that lets a shell complete commands, flags and names with the Tab key."""

from __future__ import annotations

import argparse

from sfmoe_dg.cli.completion_scripts import SCRIPTS

EXAMPLE = """example:
  eval "$(sfmoe-dg completion bash)"    # in ~/.bashrc
  eval "$(sfmoe-dg completion zsh)"     # in ~/.zshrc, behind compinit
  sfmoe-dg completion fish > ~/.config/fish/completions/sfmoe-dg.fish

The script contains all names, including those of installed plug-ins. Print it again after installing a plug-in.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=tuple(SCRIPTS), help="the shell that will read the script")


def run(args: argparse.Namespace) -> int:
    from sfmoe_dg.cli.completion_words import commands

    print(SCRIPTS[args.shell](commands(args.whole_parser)), end="")
    return 0
