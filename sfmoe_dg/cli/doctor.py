"""Check this machine: software, devices, disks, data, the hub, Slurm and plug-ins."""

from __future__ import annotations

import argparse
import json
import os

EXAMPLE = """example:
  sfmoe-dg doctor
  sfmoe-dg doctor --data_dir DATA --output_dir results
  sfmoe-dg doctor --json

ok: nothing to do; warning: something will be slow, or an optional part will not work; problem: runs will fail. The exit
code is 1 if there is a problem, and 0 otherwise.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data_dir", help="the folder that holds the data sets' folders; without it, data are not checked"
    )
    parser.add_argument("--output_dir", default=".", help="the folder for results; default: the current one")
    parser.add_argument("--json", action="store_true", help="print the findings as a JSON list, for scripts")


def run(args: argparse.Namespace) -> int:
    from sfmoe_dg.doctor.examination import examine, probes
    from sfmoe_dg.doctor.findings import Level

    counts = dict.fromkeys(Level, 0)
    findings = []
    for finding in examine(probes(args.data_dir, args.output_dir, os.environ)):
        counts[finding.level] += 1
        findings.append({"level": finding.level.value, "topic": finding.topic, "text": finding.text})
        if not args.json:
            print(f"{finding.level.value:8} {finding.topic:14} {finding.text}", flush=True)
    if args.json:
        print(json.dumps(findings, indent=1))
    else:
        print(f"{counts[Level.PROBLEM]} problems, {counts[Level.WARNING]} warnings")
    return 1 if counts[Level.PROBLEM] else 0
