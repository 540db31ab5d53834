"""Make CUB-DG from CUB-200-2011 and fast-neural-style weights; see cub_dg.md beside this file.

    python datasets/cub_dg.py --cub DIR --weights DIR --out DIR [--styles candy mosaic udnie] [--size N]

writes DIR/CUB_DG. The same command continues an interrupted build.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sfmoe_dg.data.cub_dg.build import BuildReport, build, verify
from sfmoe_dg.data.cub_dg.names import FOLDER
from sfmoe_dg.data.cub_dg.plan import DEFAULT_STYLES, BuildOptions
from sfmoe_dg.data.cub_dg.sheet import write_contact_sheet
from sfmoe_dg.foundation.arguments import ArgumentParser
from sfmoe_dg.foundation.errors import UserError


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(
        description="Make CUB-DG from CUB-200-2011 and fast-neural-style weights, or check it. Run again, it goes on "
        "where it stopped.",
        epilog="Source, licence, counts and known faults: the Markdown file beside this script.",
    )
    add = parser.add_argument
    add("--cub", type=Path, metavar="DIR", help="CUB_200_2011, or the folder that holds it")
    add("--weights", type=Path, metavar="DIR", help="where <style>.pth (or .safetensors) lies")
    add("--out", type=Path, required=True, metavar="DIR", help="CUB_DG is made in it")
    add("--styles", nargs="+", default=list(DEFAULT_STYLES), metavar="NAME[=FILE]", help="beside the natural pictures")
    add("--size", type=int, metavar="N", help="shorter side in pixels; without it every picture keeps its size")
    add("--jobs", type=int, metavar="N", help="processes; default: one per core on the CPU, up to 4 on a GPU")
    add("--device", metavar="D", help="cpu, cuda, cuda:1; default: a GPU if there is one")
    add("--batch_size", type=int, metavar="N", help="pictures per pass; default: 1 on the CPU, 16 on a GPU")
    add("--allow_missing", action="store_true", help="build what is there though images.txt lists more images")
    add("--contact_sheet", type=Path, metavar="FILE.png", help="draw five birds in all domains, with their parts")
    add("--verify", action="store_true", help="build nothing; read and check what is there (only --out is needed)")
    given = parser.parse_args(arguments)
    if given.cub is None and not given.verify:
        raise UserError("--cub is needed, except with --verify")
    return given


def describe(report: BuildReport) -> str:
    counts, attributes = report.manifest["counts"], report.manifest["attributes"]
    lines = [
        f"{report.folder}: {report.total} pictures, {report.made} of them made now; {counts['built']} birds × "
        f"{len(report.manifest['domains'])} domains, {len(report.manifest['classes'])} classes",
        f"attributes from the {attributes['source']} labels",
    ]
    if counts["missing"]:
        lines.append(f"{counts['missing']} of {counts['listed']} listed images are missing and were left out")
    if attributes["lines_with_extra_fields"] or attributes["repeated"] or attributes["unlabelled"]:
        lines.append(
            f"attribute labels: {attributes['lines_with_extra_fields']} lines with extra fields, "
            f"{attributes['repeated']} repeated, {attributes['unlabelled']} not given"
        )
    return "\n".join(lines)


def make(options: BuildOptions) -> BuildReport:
    """Build with a progress bar on stderr."""
    # The bar appears after a second; bad input is found before.
    with tqdm(desc="CUB-DG", unit="picture", mininterval=0.5, delay=1) as bar:

        def show(done: int, total: int) -> None:
            if bar.total is None:
                bar.total, bar.initial, bar.n = total, done, done  # the rate counts only what this command builds
            bar.update(done - bar.n)

        return build(options, show)


def check(folder: Path) -> int:
    problems = verify(folder)
    for problem in problems:
        print(f"PROBLEM {problem}")
    print(f"{folder}: {len(problems)} problems" if problems else f"{folder}: no problem found")
    return 1 if problems else 0


def main(arguments: list[str] | None = None) -> int:
    sheet, given = None, dict[str, Any]()
    try:
        given = vars(parse(arguments))
        only_check, sheet = given.pop("verify"), given.pop("contact_sheet")
        if only_check:
            return check(given["out"] / FOLDER)
        report = make(BuildOptions(**{**given, "styles": tuple(given["styles"])}))
        print(describe(report))
        if sheet is not None:
            write_contact_sheet(report.folder, sheet)
            print(f"contact sheet: {sheet}")
    except UserError as error:
        print(f"cub_dg.py: error: {error.with_flags(given)}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"cub_dg.py: error: {error.filename or sheet} ({error.strerror})", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("cub_dg.py: interrupted; the same command goes on with what is missing", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
