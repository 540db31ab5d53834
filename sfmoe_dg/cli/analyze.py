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
and those of other packages; sfmoe-dg list analyses says what they show.

Every figure is saved as PNG and PDF, with its numbers as CSV and a line that says what it shows as TXT.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "target",
        metavar="RUN",
        help="the folder of a finished run, or of a sweep: its best SFMoE run is then looked into",
    )
    parser.add_argument(
        "--what", nargs="+", default=[ALL], metavar="NAME", help="analyses by name, or all (the default)"
    )
    add_subject_arguments(parser)


def add_subject_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that say what is looked at and where the figures go; the scripts in ``analysis/`` have them too."""
    parser.add_argument("--output_dir", help=f"where the figures go; default: RUN/{FIGURES}")
    parser.add_argument("--images", type=int, metavar="N", help="images of each domain's out-split; default: all")
    parser.add_argument("--layer", metavar="NAME", help="for figures of one layer of experts; default: the last")
    parser.add_argument("--data_dir", help="default: where the run found the data")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="torch's threads on the CPU; default: as torch chooses"
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
    """Keep torch's profiler, which measures memory, from writing to standard error. Call this before torch's import."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def output_folder(args: argparse.Namespace) -> Path:
    """Where the figures go."""
    return Path(args.output_dir) if args.output_dir else Path(args.target) / FIGURES


def subject_of(args: argparse.Namespace, prefer: str = "SFMoE") -> Subject:
    """The run to look into; of a sweep, the best run of the algorithm ``prefer`` comes first.

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
    """Draw and save figure by figure; ``skip`` goes on, with a sentence, where a run has nothing for an analysis.

    Returns 1 if an analysis failed for another reason.
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
