"""Show the output of a run and the end of its errors."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TextIO

from sfmoe_dg.foundation.errors import UserError

ERROR_LINES = 20
POLL_SECONDS = 0.5

EXAMPLE = """example:
  sfmoe-dg logs --output_dir results/pacs 3f9a
  sfmoe-dg logs --output_dir results/pacs PACS ERM test 0 hparams 0 trial 1 --follow

A run is named by the beginning of its id or by words of its title, as sfmoe-dg status shows them.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="+", metavar="RUN", help="the beginning of a run's id, or words of its title")
    parser.add_argument("--output_dir", required=True, help="the folder of a sweep")
    parser.add_argument("--follow", action="store_true", help="keep showing new lines until the run is done")
    parser.add_argument(
        "--lines",
        type=int,
        default=ERROR_LINES,
        metavar="N",
        help="number of lines shown from the end of the errors (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    from sfmoe_dg.runs.folder import RunFolder
    from sfmoe_dg.sweeps.find_run import find_run, title
    from sfmoe_dg.sweeps.plan import load_plans

    if args.lines < 0:
        raise UserError(f"--lines is {args.lines}; it must be at least 0")
    output_dir = Path(args.output_dir)
    named = find_run(load_plans(output_dir), " ".join(args.run))
    folder = RunFolder(output_dir / named.run_id)
    if not folder.path.is_dir() and not args.follow:
        raise UserError(f"run {title(named)} has not begun: there is no {folder}")
    output, errors = _Tail(folder.output), _Tail(folder.errors)
    output.show(sys.stdout)
    _show_errors(errors, args.lines)
    try:
        while args.follow and not folder.is_done:
            time.sleep(POLL_SECONDS)
            output.show(sys.stdout)
            errors.show(sys.stderr)
    except KeyboardInterrupt:
        return 130
    if args.follow:
        # The run may have written more between the last look and its end.
        output.show(sys.stdout)
        errors.show(sys.stderr)
    return 0


class _Tail:
    """The new text of a file that another process writes. If the file was begun anew, it is read from its start."""

    def __init__(self, path: Path) -> None:
        self.path, self._offset = path, 0

    def new(self) -> str:
        try:
            with self.path.open("rb") as file:
                if file.seek(0, 2) < self._offset:
                    self._offset = 0
                file.seek(self._offset)
                content = file.read()
        except FileNotFoundError:
            return ""
        self._offset += len(content)
        return content.decode("utf-8", errors="replace")

    def show(self, stream: TextIO) -> None:
        stream.write(self.new())
        stream.flush()


def _show_errors(errors: _Tail, count: int) -> None:
    lines = errors.new().splitlines()
    if not lines or not count:
        return
    shown = lines[-count:]
    what = f"all {len(lines)}" if len(shown) == len(lines) else f"the last {len(shown)} of {len(lines)}"
    print(f"--- {errors.path}, {what} lines:")
    print("\n".join(shown), flush=True)
