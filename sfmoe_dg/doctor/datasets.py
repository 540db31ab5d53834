"""Check which data sets a folder holds, and whether they are complete. Images are counted, not decoded."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from sfmoe_dg.data.builders.recipe import Recipe, from_catalog
from sfmoe_dg.data.builders.verify import verify
from sfmoe_dg.data.catalog import CATALOG
from sfmoe_dg.doctor.findings import Finding, Probe, ok, problem, warning
from sfmoe_dg.foundation.errors import UserError

SECONDS = 30.0
"""Time limit for counting one data set; half a million files on a local disk take less."""


def probes(data_dir: Path) -> list[Probe]:
    """One check per folder of a data set, and one for the folders that are absent."""
    found = [Probe("data", partial(absent, data_dir), seconds=10.0)]
    for recipe in recipes():
        late = warning(
            "data",
            f"{recipe.name}: there, but counting took longer than {SECONDS:g} s; check it with its script in "
            "datasets/, which verifies it too",
        )
        found.append(Probe("data", partial(whole, data_dir, recipe), SECONDS, late))
    return found


def recipes() -> list[Recipe]:
    """What each folder of the catalog's own data sets must hold; several data sets may share a folder."""
    facts = (CATALOG.load(name) for name in CATALOG.registered)
    names = {entry.folder: entry.name for entry in facts if entry.folder and entry.counter}
    return [from_catalog(name) for name in names.values()]


def absent(data_dir: Path) -> Iterator[Finding]:
    if not data_dir.is_dir():
        yield problem(
            "data", f"the data folder {data_dir} is not a folder; give the one that holds the data sets' folders"
        )
        return
    names = [recipe.name for recipe in recipes() if not (data_dir / recipe.folder).is_dir()]
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
