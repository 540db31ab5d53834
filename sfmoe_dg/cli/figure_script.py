"""The command line of the scripts in ``analysis/``: open a run, draw one figure, save it and print its path.

Exit codes: 0 if the figure is drawn, 2 for bad input, 3 if the figure does not apply to the run. Codes 2 and 3
come with one sentence on standard error.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sfmoe_dg.cli.analyze import add_subject_arguments, output_folder, quiet_profiler, subject_of
from sfmoe_dg.cli.main import exit_code_of
from sfmoe_dg.foundation.arguments import ArgumentParser
from sfmoe_dg.foundation.plugins import load_plugins

if TYPE_CHECKING:
    from sfmoe_dg.analysis.drawing.saving import Drawing
    from sfmoe_dg.analysis.subject.subject import Subject

NOT_APPLICABLE = 3


def figure_script(
    text: str | None, draw: Callable[[Subject], Drawing], *, prefer: str = "SFMoE", argv: Sequence[str] | None = None
) -> int:
    """Draw one figure of one run and return the exit code.

    Args:
        text: the script's docstring, shown by ``--help``.
        draw: makes the figure, with its table and caption, from the run that was opened.
        prefer: for the folder of a sweep, the figure shows the best run of this algorithm if there is one.
    """

    parser = ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", metavar="RUN", help="the folder of a finished run, or of a sweep")
    add_subject_arguments(parser)

    def work(args: argparse.Namespace) -> int:
        quiet_profiler()
        load_plugins(args.plugin)
        from sfmoe_dg.analysis.drawing.saving import save
        from sfmoe_dg.analysis.subject.subject import NotApplicable

        try:
            drawing = draw(subject_of(args, prefer))
        except NotApplicable as error:
            print(f"{parser.prog}: not drawn: {error}", file=sys.stderr)
            return NOT_APPLICABLE
        print(f"{save(output_folder(args), drawing)[0]}: {drawing.caption}")
        return 0

    return exit_code_of(lambda: parser, work, argv)
