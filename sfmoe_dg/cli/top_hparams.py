"""Rank the hyper-parameter settings of one algorithm on one test domain."""

from __future__ import annotations

import argparse
import sys

EXAMPLE = """example:
  sfmoe-dg top-hparams --input_dir results/pacs --dataset PACS --algorithm SFMoE --test_env 3
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input_dir", required=True, help="the folder that holds one sub-folder per run")
    parser.add_argument("--dataset", required=True, help="name of a data set in the records")
    parser.add_argument("--algorithm", required=True, help="name of an algorithm in the records")
    parser.add_argument("--test_env", required=True, type=int, metavar="N", help="number of the held-out domain")


def run(args: argparse.Namespace) -> int:
    from sfmoe_dg.cli.collect import tell
    from sfmoe_dg.results.collect import top_hparams

    report = top_hparams(args.input_dir, args.dataset, args.algorithm, args.test_env)
    tell(report.problems)
    sys.stdout.write(report.output)
    return 0
