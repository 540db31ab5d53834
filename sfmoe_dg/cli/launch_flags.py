"""The flags of ``sfmoe-dg sweep`` that take precedence over a study's ``[launch]`` table."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from sfmoe_dg.cli.flags import add_flags, from_flag
from sfmoe_dg.foundation.checked import Value, refuse, values_of
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.sweeps.launch.settings import LaunchSettings
from sfmoe_dg.sweeps.launch.slurm.settings import SlurmSettings

KEYS_ONLY = ("num_workers", "cache_dir")
"""Keys of the table that have no flag."""
REPEATED = ("setup", "sbatch")
"""Flags that take one value and can be repeated. A shell line contains spaces, so one flag cannot take several."""
HERE = {name: value for name, value in values_of(LaunchSettings).items() if name not in KEYS_ONLY}
CLUSTER = {name: value for name, value in values_of(SlurmSettings).items() if name not in values_of(LaunchSettings)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    here = parser.add_argument_group("execution (changes no record; default: the study's [launch] table)")
    cluster = parser.add_argument_group("execution with --launcher slurm")
    for group, values in ((here, HERE), (cluster, CLUSTER)):
        add_flags(group, [value for name, value in values.items() if name not in REPEATED], unset=True)
    here.add_argument("--yes", action="store_true", help="do not ask")
    for name in REPEATED:
        _add_repeated(cluster, CLUSTER[name])


def _add_repeated(group: argparse._ArgumentGroup, value: Value) -> None:
    group.add_argument(f"--{value.name}", action="append", metavar=value.metavar, help=f"{value.help}; repeatable")


def _option_of_sbatch(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not name or not value:
        raise UserError(f"--sbatch is {text!r}; it must be NAME=VALUE, such as exclude=node7")
    return name.lstrip("-"), value


def override(launch: Mapping[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """The study's ``[launch]`` table, with the values of the flags in place of its own.

    Raises:
        UserError: if a value is not allowed; the message names the flag, the value and the allowed values.
    """
    given = {name: from_flag(value, getattr(args, name)) for name, value in (HERE | CLUSTER).items()}
    given = {name: value for name, value in given.items() if value is not None}
    if args.sbatch:
        given["sbatch"] = dict(launch.get("sbatch", {})) | dict(map(_option_of_sbatch, args.sbatch))
    for name, value in given.items():
        refuse((HERE | CLUSTER)[name], value)
    return dict(launch) | given
