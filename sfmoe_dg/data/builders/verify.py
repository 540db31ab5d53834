"""Compare what is on disk with the published counts and with the manifest that the builder wrote."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from sfmoe_dg.data.builders.layouts import Counts, is_image
from sfmoe_dg.data.builders.manifest import NAME, differences, files_below, read_manifest
from sfmoe_dg.data.builders.recipe import Recipe
from sfmoe_dg.foundation.errors import UserError


@dataclass(frozen=True)
class Check:
    """The result of :func:`verify`.

    Attributes:
        counts: images per domain.
        classes: class names.
        problems: one sentence each.
        notes: other sentences for the user.
    """

    counts: dict[str, int]
    classes: tuple[str, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def verify(recipe: Recipe, out: Path, *, contents: bool = True, progress: bool = False) -> Check:
    """Compare ``out/recipe.folder`` with the recipe and with its manifest.

    Args:
        contents: read every file: compare its checksum if there is a manifest, else decode it.

    Raises:
        UserError: if the folder, or a table that lists its images, is missing or damaged.
    """
    folder = out / recipe.folder
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the folder that holds {recipe.folder}")
    try:
        counts = recipe.count(folder)
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is missing, so {recipe.name} cannot be checked; build it again") from None
    except UserError:
        raise
    except (KeyError, ValueError, csv.Error) as error:
        raise UserError(f"a table in {folder} is damaged ({error!r}); build {recipe.name} again") from None
    problems, notes = _against_publication(recipe, counts)
    manifest = read_manifest(folder)
    if manifest is not None:
        problems += differences(folder, manifest, checksums=contents, progress=progress)
    else:
        notes.append(
            f"there is no {NAME}, which builders write, so files that are missing or extra cannot be named"
            + (", and images are checked by decoding them" if contents else "")
        )
        problems += _undecodable(folder, progress) if contents else []
    classes = tuple(sorted({name for domain in counts.values() for name in domain}))
    return Check(
        {name: sum(domain.values()) for name, domain in counts.items()}, classes, tuple(problems), tuple(notes)
    )


def _against_publication(recipe: Recipe, counts: Counts) -> tuple[list[str], list[str]]:
    """Problems and notes."""
    problems, notes = [], []
    total = sum(sum(domain.values()) for domain in counts.values())
    known = recipe.known_totals.get(total)
    if known:
        notes.append(f"{total} images in all: {known}")
    for name in recipe.domains:
        found, published = sum(counts.get(name, {}).values()), recipe.published.get(name)
        if name not in counts:
            problems.append(f"missing: domain {name}")
        elif published is not None and found != published and not known:
            more = f"{abs(found - published)} {'more' if found > published else 'fewer'} than"
            problems.append(f"{name} holds {found} images, {more} the {published} of the published copy")
    problems += [f"extra: domain {name}" for name in counts if name not in recipe.domains]
    if not recipe.published:
        notes.append("the published counts per domain are not known to us, so counts are not compared")
    problems += _against_each_other(recipe, counts)
    return problems, notes


def _against_each_other(recipe: Recipe, counts: Counts) -> list[str]:
    classes = {name for domain in counts.values() for name, count in domain.items() if count}
    problems = [
        f"{domain} has no image of class {name}"
        for domain, by_class in counts.items()
        for name in sorted(classes)
        if not by_class.get(name)
    ]
    if recipe.num_classes and len(classes) != recipe.num_classes:
        problems.append(f"there are {len(classes)} classes, not {recipe.num_classes}")
    return problems


def _undecodable(folder: Path, progress: bool) -> list[str]:
    from sfmoe_dg.data.sets.image_folder import load_rgb  # imports torch

    problems = []
    paths = [path for path in files_below(folder) if is_image(path.rpartition("/")[2])]
    for path in tqdm(paths, desc="decoding", unit=" files", disable=None if progress else True, leave=False):
        try:
            load_rgb(str(folder / path))
        except UserError as error:
            problems.append(f"truncated or damaged: {path} ({str(error).split(';')[0]})")
    return problems
