"""The command line that all scripts in ``datasets/`` share. Scripts give ``say``, which prints lines.

Exit codes: 0: done. 1: built or checked, but something is not as published. 2: bad input, with one sentence.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from sfmoe_dg.data.builders.recipe import Recipe, build
from sfmoe_dg.data.builders.verify import Check, verify
from sfmoe_dg.foundation.arguments import ArgumentParser
from sfmoe_dg.foundation.errors import UserError


def make_parser(recipe: Recipe) -> ArgumentParser:
    names = ", ".join(source.file for source in recipe.sources if not source.option)
    parser = ArgumentParser(
        description=f"Download and prepare {recipe.name}, or check a copy. Run again, it goes on where it stopped.",
        epilog="Source, licence, counts and known faults: the Markdown file beside this script.",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DATA", help=f"{recipe.folder} is made in this folder"
    )
    parser.add_argument("--archive", type=Path, nargs="+", default=[], metavar="FILE", help=f"files you have: {names}")
    for source in recipe.sources:
        if source.option:
            parser.add_argument(f"--{source.option}", type=Path, metavar="FILE", help=f"a copy of {source.file}")
    parser.add_argument(
        "--sha256", nargs="+", default=[], metavar="[FILE=]HEX", help="checksums that the files must have"
    )
    parser.add_argument("--keep_archive", action="store_true", help="leave downloads in DATA/archives")
    parser.add_argument("--verify", action="store_true", help="build nothing; read and check what is there")
    return parser


def main(recipe: Recipe, argv: Sequence[str] | None = None, *, say: Callable[[str], None]) -> int:
    """Build or verify one data set; returns the exit code."""
    parser = make_parser(recipe)
    try:
        args = parser.parse_args(argv)
        if not args.verify:
            is_new = build(
                recipe,
                args.out,
                given=_given(recipe, args),
                sha256=_checksums(recipe, args.sha256),
                keep_archive=args.keep_archive,
                progress=True,
                tell=say,
            )
            if not is_new:
                say(f"{args.out / recipe.folder} was built before; --verify reads and checks every file")
        check = verify(recipe, args.out, contents=args.verify, progress=True)
    except UserError as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        parser.exit(2, f"{parser.prog}: error: {error.strerror or error}{where}; check that path and its disk\n")
    except KeyboardInterrupt:
        parser.exit(130, f"{parser.prog}: interrupted; the same command goes on with what is missing\n")
    for line in report(recipe, args.out, check):
        say(line)
    return 1 if check.problems else 0


def report(recipe: Recipe, out: Path, check: Check) -> list[str]:
    """A check's result as lines of text."""
    total, classes = sum(check.counts.values()), len(check.classes)
    lines = [f"{out / recipe.folder}: {len(check.counts)} domains, {classes} classes, {total} images"]
    for name, count in check.counts.items():
        published = recipe.published.get(name)
        lines.append(f"  {name}: {count}" + (f" of {published}" if published not in (None, count) else ""))
    lines += [f"note: {note}" for note in check.notes]
    lines += [f"PROBLEM {problem}" for problem in check.problems]
    lines.append(f"{len(check.problems)} problems" if check.problems else "no problem found")
    return lines


def _given(recipe: Recipe, args: argparse.Namespace) -> dict[str, Path]:
    """The user's files by the names of the sources. If there is one source, its file may have any name."""
    given = {source.file: getattr(args, source.option) for source in recipe.sources if source.option}
    given = {file: path for file, path in given.items() if path is not None}
    archives = [source for source in recipe.sources if not source.option]
    if len(archives) == len(args.archive) == 1:
        return given | {archives[0].file: args.archive[0]}
    names = {source.file.lower(): source.file for source in recipe.sources}
    for path in args.archive:
        if path.name.lower() not in names:
            known = ", ".join(source.file for source in recipe.sources)
            raise UserError(
                f"{path} is none of the files that {recipe.name} is made of: {known}; rename it to one of them"
            )
        given[names[path.name.lower()]] = path
    return given


def _checksums(recipe: Recipe, texts: Sequence[str]) -> dict[str, str]:
    names = [source.file for source in recipe.sources]
    checksums = {}
    for text in texts:
        file, _, digest = text.rpartition("=")
        if not file and len(names) == 1:
            file = names[0]
        if file not in names or len(digest) != 64 or set(digest.lower()) - set("0123456789abcdef"):
            raise UserError(f"--sha256 {text} is not FILE=HEX with 64 digits and a file of {', '.join(names)}")
        checksums[file] = digest.lower()
    return checksums
