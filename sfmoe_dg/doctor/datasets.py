"""Check which data sets a folder holds, and whether they are complete. Images are counted, not decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from sfmoe_dg.data.builders.layouts import (
    Counts,
    count_camelyon,
    count_fmow,
    count_idx,
    count_image_folders,
    count_spawrious,
)
from sfmoe_dg.data.builders.recipe import Recipe, from_catalog
from sfmoe_dg.data.builders.verify import verify
from sfmoe_dg.data.catalog import CATALOG, DatasetFacts, facts
from sfmoe_dg.doctor.findings import Finding, Probe, ok, problem, warning
from sfmoe_dg.foundation.errors import UserError

SECONDS = 30.0
"""Time limit for counting one data set; half a million files on a local disk take less."""

COUNTERS: dict[str, Callable[[Path], Counts]] = {
    "sfmoe_dg.data.sets.image_folder:read": count_image_folders,
    "sfmoe_dg.data.cub_dg.reader:read": count_image_folders,
    "sfmoe_dg.data.sets.wilds:read_camelyon": count_camelyon,
    "sfmoe_dg.data.sets.wilds:read_fmow": count_fmow,
}
"""How images are counted, by the reader of the data set; for other readers see :func:`_recipe`."""


def probes(data_dir: Path) -> list[Probe]:
    """One check per folder of a data set, and one for the folders that are absent."""
    found = [Probe("data", partial(absent, data_dir), seconds=10.0)]
    for folder, entries in by_folder().items():
        recipe = _recipe(folder, entries)
        if recipe is not None:
            late = warning(
                "data",
                f"{recipe.name}: there, but counting took longer than {SECONDS:g} s; check it with its script in "
                "datasets/ and --verify",
            )
            found.append(Probe("data", partial(whole, data_dir, recipe), SECONDS, late))
    return found


def by_folder() -> dict[str, list[DatasetFacts]]:
    """The catalog's own data sets by their folders. Several data sets may share a folder."""
    folders: dict[str, list[DatasetFacts]] = {}
    for name in CATALOG.registered:
        entry = facts(name)
        if entry.folder:
            folders.setdefault(entry.folder, []).append(entry)
    return folders


def absent(data_dir: Path) -> Iterator[Finding]:
    if not data_dir.is_dir():
        yield problem("data", f"--data_dir {data_dir} is not a folder; give the one that holds the data sets' folders")
        return
    names = [_title(entries) for folder, entries in by_folder().items() if not (data_dir / folder).is_dir()]
    if names:
        yield ok("data", f"not in {data_dir}: {', '.join(names)}; make data DATASETS=… DATA=… builds them")


def whole(data_dir: Path, recipe: Recipe) -> Iterator[Finding]:
    """Whether a data set is complete; yields nothing if it is absent."""
    if not (data_dir / recipe.folder).is_dir():
        return
    try:
        check = verify(recipe, data_dir, contents=False)
    except (UserError, OSError) as error:
        yield problem("data", f"{recipe.name}: {error}")
        return
    total, of = sum(check.counts.values()), sum(recipe.published.values())
    if not check.problems:
        counted = f"{total} images, as published" if total == of else f"{total} images"
        yield ok("data", f"{recipe.name}: {counted}")
        return
    more = f" and {len(check.problems) - 3} more" if len(check.problems) > 3 else ""
    what = f"{recipe.name}: {total} images, published are {of or 'unknown'}: {'; '.join(check.problems[:3])}{more}"
    if set(check.counts) != set(recipe.domains) or recipe.num_classes not in (0, len(check.classes)):
        yield problem("data", f"{what}; it cannot be trained on, build it again")
    else:
        yield warning("data", f"{what}; results will not compare with published ones, build it again")


def _title(entries: list[DatasetFacts]) -> str:
    """A title for data sets that share a folder: the common beginning of their names, or all names."""
    names = [entry.name for entry in entries]
    return "Spawrious" if names[0].startswith("Spawrious") else " and ".join(names)


def _recipe(folder: str, entries: list[DatasetFacts]) -> Recipe | None:
    """What the folder must hold; None if that is not known."""
    entry = entries[0]
    if entry.reader in COUNTERS:
        return from_catalog(entry.name, count=COUNTERS[entry.reader])
    if folder == "MNIST":
        return _shared(entries, {"train": 60000, "test": 10000}, count_idx, classes=10)
    if folder == "spawrious224":
        published = {
            f"{each.name.removeprefix('Spawrious')} {domain}": count
            for each in entries
            for domain, count in zip(each.domains, each.counts, strict=True)
        }
        return _shared(entries, published, count_spawrious, classes=entry.num_classes)
    return None


def _shared(
    entries: list[DatasetFacts], published: dict[str, int], count: Callable[[Path], Counts], classes: int
) -> Recipe:
    return Recipe(
        name=_title(entries),
        folder=entries[0].folder,
        sources=(),
        prepare=lambda sources, target: [],
        domains=tuple(published),
        published=published,
        num_classes=classes,
        count=count,
    )
