"""Average the models of a finished sweep's runs into one (DiWA)."""

from __future__ import annotations

import argparse
import sys

EXAMPLE = """example:
  sfmoe-dg sweep sweeps/pacs.toml --data_dir DATA --output_dir results/pacs
  sfmoe-dg diwa --input_dir results/pacs --dataset PACS --algorithm LPFT --test_env 3 --output_dir results/soups/pacs_3

The result is the folder of a run. The tables of the folder above it get a row DiWA(LPFT). The runs must have kept their
models (no --skip_model_save).
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input_dir", required=True, help="the folder that holds one sub-folder per run")
    parser.add_argument("--dataset", required=True, help="the data set of the runs")
    parser.add_argument("--algorithm", required=True, help="the algorithm of the runs")
    parser.add_argument("--test_env", required=True, type=int, metavar="N", help="number of the held-out domain")
    parser.add_argument("--output_dir", required=True, help="the folder of the averaged model")
    parser.add_argument(
        "--trial_seed",
        type=int,
        default=0,
        help="average the runs of this trial, which share their splits (default: %(default)s)",
    )
    parser.add_argument(
        "--soup",
        choices=("restricted", "uniform"),
        default="restricted",
        help="restricted: keep a run if it does not lower the mean's accuracy on training domains; uniform: keep all",
    )
    parser.add_argument("--data_dir", help="the data folder; default: the runs'")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--num_workers", type=int, help="number of loader processes")
    parser.add_argument("--plugin", action="append", default=[], metavar="MODULE", help="module or .py to import")


def run(args: argparse.Namespace) -> int:
    from sfmoe_dg.cli.train import cache_folder
    from sfmoe_dg.foundation.plugins import load_plugins
    from sfmoe_dg.runs.execution import Execution
    from sfmoe_dg.training.diwa import find_members, make_soup

    load_plugins(args.plugin)
    members, left_out = find_members(args.input_dir, args.dataset, args.algorithm, args.test_env, args.trial_seed)
    for line in left_out:
        print(line, file=sys.stderr)
    print(f"{len(members)} runs, from {100 * members[0].val_acc:.2f} to {100 * members[-1].val_acc:.2f} on validation")
    execution = Execution(args.device, args.num_workers, cache_dir=cache_folder())
    soup = make_soup(members, args.soup, args.output_dir, execution, args.data_dir, print)
    test = soup.record[f"env{args.test_env}_in_acc"]
    print(f"mean of {len(soup.members)} runs: {100 * test:.2f} on domain {args.test_env}; written to {args.output_dir}")
    return 0
