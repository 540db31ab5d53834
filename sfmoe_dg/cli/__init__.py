"""One command with sub-commands. This package is the only place that prints, and :func:`main` the only exit.

Exit codes: 0 done; 1 some runs failed or are missing; 2 bad input, said in one sentence; 75 another process trains this
run; 130 interrupted; 143 and 140 ended by SIGTERM and SIGUSR2, after saving.
Sub-commands import what they need when they run, so that ``--help`` is quick.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from sfmoe_dg import __version__
from sfmoe_dg.cli import (
    analyze,
    cancel,
    collect,
    convert_vmoe,
    delete_incomplete,
    diwa,
    domainbed,
    list_names,
    logs,
    report_page,
    retry,
    status,
    sweep,
    top_hparams,
    train,
)
from sfmoe_dg.errors import UserError
from sfmoe_dg.lease import LeaseLost, Owned

COMMANDS = {
    "train": train,
    "sweep": sweep,
    "status": status,
    "logs": logs,
    "retry": retry,
    "cancel": cancel,
    "delete-incomplete": delete_incomplete,
    "collect": collect,
    "top-hparams": top_hparams,
    "analyze": analyze,
    "report": report_page,
    "diwa": diwa,
    "convert-vmoe": convert_vmoe,
    "domainbed": domainbed,
    "list": list_names,
}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sfmoe-dg",
        description="Domain generalization with mixtures of experts: train, sweep, select, tabulate.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"sfmoe-dg {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        summary = (module.__doc__ or "").splitlines()[0]
        command = commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=module.EXAMPLE,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command and return its exit code."""
    args = make_parser().parse_args(argv)
    try:
        return int(COMMANDS[args.command].run(args))
    except (Owned, LeaseLost) as error:
        print(f"sfmoe-dg: {error}", file=sys.stderr)
        return 75
    except UserError as error:
        message = str(error)
    except KeyboardInterrupt:
        print("sfmoe-dg: interrupted; the same command goes on with what is missing", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; there is nobody left to tell.
        sys.stderr.close()
        return 1
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        message = f"{error.strerror or error}{where}"
    print(f"sfmoe-dg: error: {message}", file=sys.stderr)
    return 2
