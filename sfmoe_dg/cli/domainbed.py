"""Run one of DomainBed's own commands with this package's algorithms and data sets."""

from __future__ import annotations

import argparse
import os
import subprocess

EXAMPLE = """example:
  sfmoe-dg domainbed --checkout DomainBed -- domainbed.scripts.train --data_dir DATA --dataset PACS --algorithm SFMoE

The output and the exit code are those of DomainBed's command. For the reverse, DomainBed's algorithms in this package's
commands, use --plugin domainbed=DomainBed.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkout", required=True, metavar="DIR", help="the folder that holds domainbed/")
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="-- MODULE ...", help="the command and its flags")


def run(args: argparse.Namespace) -> int:
    from sfmoe_dg.compat.domainbed.runner import command, environment

    words = args.words[1:] if args.words[:1] == ["--"] else args.words
    words = command(args.checkout, words)
    code = subprocess.call(words, env=environment(args.checkout, os.environ))
    # A negative code is a signal; shells report it as 128 + its number.
    return code if code >= 0 else 128 - code
