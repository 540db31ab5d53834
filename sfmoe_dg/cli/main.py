"""The command ``sfmoe-dg`` and its sub-commands. Only ``cli`` prints, and only :func:`main` sets the exit code.

``--help`` shows :data:`EXAMPLE`, which lists the exit codes. Sub-commands import their modules when they run, so that
``--help`` is quick.
"""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Callable, Container, Sequence

from sfmoe_dg.cli import (
    analyze,
    cancel,
    collect,
    completion,
    convert_vmoe,
    delete_incomplete,
    diwa,
    doctor,
    domainbed,
    list_names,
    logs,
    retry,
    status,
    sweep,
    top_hparams,
    train,
)
from sfmoe_dg.cli import report as report_page
from sfmoe_dg.foundation.arguments import ArgumentParser
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.version import __version__
from sfmoe_dg.runs.lease import LeaseLost, Owned

_ADVICE = {
    errno.ENOSPC: "make room there and give the same command again",
    errno.EDQUOT: "make room there and give the same command again",
    errno.EACCES: "check its permissions, or choose another place",
    errno.EPERM: "check its permissions, or choose another place",
    errno.EROFS: "choose another place",
}
"""The advice that an error message gives for errors of the file system."""

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
    "doctor": doctor,
    "completion": completion,
}

EXAMPLE = """example:
  sfmoe-dg doctor
  sfmoe-dg train --dataset StyledDigits --algorithm SFMoE --test_envs 3 --steps 300 --output_dir results/one
  sfmoe-dg sweep sweeps/quickstart.toml --output_dir results/quickstart --jobs 2
  sfmoe-dg train --help

exit codes:
  0    done
  1    something failed or is missing: runs of a sweep, an analysis, a plug-in, a check
  2    bad input, or an error of a disk or file; one sentence says what is wrong
  75   another process trains this run
  130  interrupted by Ctrl-C; a run has saved, and the same command resumes it
  140  ended by SIGUSR2, after saving
  143  ended by SIGTERM, after saving
"""


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="sfmoe-dg",
        description="Domain generalization with mixtures of experts: train, sweep, select, tabulate.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"sfmoe-dg {__version__}")
    parser.set_defaults(whole_parser=parser)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        summary = (module.__doc__ or "").splitlines()[0]
        command = commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=module.EXAMPLE,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command and return its exit code."""
    return exit_code_of(make_parser, lambda args: int(COMMANDS[args.command].run(args)), argv)


def exit_code_of(
    make: Callable[[], argparse.ArgumentParser],
    work: Callable[[argparse.Namespace], int],
    argv: Sequence[str] | None = None,
) -> int:
    """Parse the command line, do the work and return its exit code.

    An error that the user can fix is reported as one sentence on standard error.
    """
    flags: Container[str] = ()
    try:
        args = make().parse_args(argv)
        flags = vars(args)
        return work(args)
    except (Owned, LeaseLost) as error:
        print(f"sfmoe-dg: {error}", file=sys.stderr)
        return 75
    except UserError as error:
        message = error.with_flags(flags)
    except KeyboardInterrupt:
        print("sfmoe-dg: interrupted; the same command goes on with what is missing", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) has ended. Python would print another error when it flushes.
        sys.stderr.close()
        return 1
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        message = f"{error.strerror or error}{where}; {_ADVICE.get(error.errno or 0, 'check that path and its disk')}"
    print(f"sfmoe-dg: error: {message}", file=sys.stderr)
    return 2
