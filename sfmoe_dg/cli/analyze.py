"""Draw what a trained model does inside, and how the runs of a sweep compare."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sfmoe_dg.analysis.registry import ANALYSES
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.registry import unknown

if TYPE_CHECKING:
    from sfmoe_dg.analysis.subject.subject import Subject

ALL = "all"
FIGURES = "figures"

EXAMPLE = f"""example:
  sfmoe-dg analyze results/quickstart --what all
  sfmoe-dg analyze results/quickstart/0a9a67c1… --what parts expert-maps --images 100 --output_dir figures

analyses: {", ".join(ANALYSES.registered)}
and those of other packages. sfmoe-dg list analyses describes them.

Every figure is saved as PNG and PDF, its numbers as CSV and its caption as TXT.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "target",
        metavar="RUN",
        help="the folder of a finished run, or of a sweep, whose best SFMoE run is then analyzed",
    )
    parser.add_argument(
        "--what", nargs="+", default=[ALL], metavar="NAME", help="analyses by name, or all (the default)"
    )
    add_subject_arguments(parser)


def add_subject_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that choose images, layer and output folder. The scripts in ``analysis/`` have them too."""
    parser.add_argument("--output_dir", help=f"the folder for the figures; default: RUN/{FIGURES}")
    parser.add_argument(
        "--images", type=int, metavar="N", help="number of images from each domain's out-split; default: all"
    )
    parser.add_argument(
        "--layer", metavar="NAME", help="the layer, for figures that show one layer of experts; default: the last"
    )
    parser.add_argument("--data_dir", help="the data folder; default: the run's")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="number of torch's CPU threads; default: torch's choice"
    )
    parser.add_argument("--plugin", action="append", default=[], metavar="MODULE", help="module or .py to import")


def run(args: argparse.Namespace) -> int:
    from sfmoe_dg.foundation.plugins import load_plugins

    quiet_profiler()
    load_plugins(args.plugin)
    names = _names(args.what)
    subject = subject_of(args)
    return draw_all(subject, names, output_folder(args), skip=ALL in args.what)


def quiet_profiler() -> None:
    """Silence torch's profiler, which measures memory and logs to standard error. Call this before importing torch."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def output_folder(args: argparse.Namespace) -> Path:
    """The folder for the figures."""
    return Path(args.output_dir) if args.output_dir else Path(args.target) / FIGURES


def subject_of(args: argparse.Namespace, prefer: str = "SFMoE") -> Subject:
    """The run to analyze. For a sweep, this is the best run of the algorithm ``prefer`` if there is one.

    Raises:
        UserError: if a flag's value is not allowed, or the folder holds no records.
    """
    from sfmoe_dg.runs.folder import RESULTS, RunFolder, run_folders

    if args.images is not None and args.images < 1:
        raise UserError(f"--images is {args.images}; it must be at least 1")
    if args.threads is not None and args.threads < 1:
        raise UserError(f"--threads is {args.threads}; it must be at least 1")
    target = Path(args.target)
    if not target.is_dir():
        raise UserError(f"{target} is no folder; give the folder of a finished run or of a sweep")
    if not RunFolder(target).results.exists() and not run_folders(target):
        raise UserError(f"{target} holds no {RESULTS}; give the folder of a finished run or of a sweep")

    import torch

    from sfmoe_dg.analysis.subject.subject import Subject
    from sfmoe_dg.cli.train import cache_folder

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    return Subject(target, args.images, args.layer, args.data_dir, args.device, cache_folder(), prefer)


def _names(what: list[str]) -> list[str]:
    for name in what:
        if name != ALL and name not in ANALYSES:
            raise unknown("analysis", name, [*ANALYSES, ALL], " for --what")
    return list(ANALYSES) if ALL in what else list(dict.fromkeys(what))


def draw_all(subject: Subject, names: list[str], output: Path, skip: bool) -> int:
    """Draw and save the figures of these analyses one after the other.

    With ``skip``, an analysis that raises UserError is left out with a note on standard error.

    Returns 1 if an analysis was left out for another reason than that it does not apply to the run, otherwise 0.
    """
    from sfmoe_dg.analysis.drawing.saving import save
    from sfmoe_dg.analysis.subject.subject import NotApplicable

    failed = 0
    for name in names:
        try:
            for drawing in ANALYSES.load(name)(subject):
                path = save(output, drawing)[0]
                print(f"{path}: {drawing.caption}", flush=True)
        except UserError as error:
            if not skip:
                raise
            failed += not isinstance(error, NotApplicable)
            print(f"sfmoe-dg: note: {name} is left out: {error}", file=sys.stderr, flush=True)
    return int(failed > 0)
