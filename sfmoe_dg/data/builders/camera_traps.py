"""TerraIncognita: four locations of the Caltech Camera Traps (Beery et al. 2018) sorted into location/class folders.

The selection is DomainBed's (``domainbed/scripts/download.py``): images of four locations with an annotation of one of
ten categories in any of the five annotation files; an image with several categories goes to each of them. DomainBed
compares every image with every annotation; here each record is read once.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sfmoe_dg.data.builders.archive import safe_path
from sfmoe_dg.data.builders.layouts import find_folder
from sfmoe_dg.foundation.errors import UserError

LOCATIONS = ("100", "38", "43", "46")
CATEGORIES = ("bird", "bobcat", "cat", "coyote", "dog", "empty", "opossum", "rabbit", "raccoon", "squirrel")
ANNOTATION_FILES = tuple(
    f"{part}_annotations.json" for part in ("cis_test", "cis_val", "train", "trans_test", "trans_val")
)
IMAGES, ANNOTATIONS = "eccv_18_all_images_sm.tar.gz", "eccv_18_annotations.tar.gz"

Placed = set[tuple[str, str, str]]
"""Location, category and file name."""


def prepare(sources: Mapping[str, Path], target: Path) -> list[str]:
    """Move images of the two extracted archives to ``target/location_L/category/file``.

    Returns:
        a line about images that the annotations name and the archive does not hold, if there are any.
    """
    folder = find_folder(sources[ANNOTATIONS], ANNOTATION_FILES, ANNOTATIONS)
    try:
        placed = sorted(chosen([_load(folder / name) for name in ANNOTATION_FILES]))
    except (KeyError, TypeError, AttributeError) as error:  # a field or a category is missing, or of another type
        raise UserError(f"a record in {ANNOTATIONS} is damaged ({error!r}); get the archive again") from None
    if not placed:
        raise UserError(
            f"{ANNOTATIONS} names no image of the locations {', '.join(LOCATIONS)}; is it the right archive?"
        )
    root = _folder_of_images(sources[IMAGES], {file for _, _, file in placed})
    absent = []
    for location, category, file in placed:
        place = target / f"location_{location}" / category / file
        place.parent.mkdir(parents=True, exist_ok=True)
        if (root / file).is_file():
            shutil.copyfile(root / file, place)
        else:
            absent.append(file)
    return [f"{len(absent)} images are annotated but not in {IMAGES}, the first is {absent[0]}"] if absent else []


def chosen(parts: list[dict[str, Any]]) -> Placed:
    """The images and their places, from the contents of the annotation files (COCO's layout)."""
    names = {item["id"]: item["name"] for part in parts for item in part["categories"]}
    images: dict[str, set[tuple[str, str]]] = {}
    for part in parts:
        for image in part["images"]:
            if str(image["location"]) in LOCATIONS:
                images.setdefault(image["id"], set()).add((str(image["location"]), _plain(image["file_name"])))
    return {
        (location, names[annotation["category_id"]], file)
        for part in parts
        for annotation in part["annotations"]
        if names[annotation["category_id"]] in CATEGORIES
        for location, file in images.get(annotation["image_id"], ())
    }


def _folder_of_images(extracted: Path, files: set[str]) -> Path:
    for folder, _, names in os.walk(extracted):
        if not files.isdisjoint(names):
            return Path(folder)
    raise UserError(f"{IMAGES} holds none of the {len(files)} images that are looked for; is this the archive?")


def _plain(name: str) -> str:
    path = safe_path(name)
    if path is None or len(path.parts) != 1:
        raise UserError(
            f"{ANNOTATIONS} names the image {name!r}, which is not a plain file name; is it the right archive?"
        )
    return name


def _load(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"{path.name} in {ANNOTATIONS} is not JSON; get the archive again") from None
    if not {"images", "annotations", "categories"} <= content.keys():
        raise UserError(
            f"{path.name} in {ANNOTATIONS} lacks images, annotations or categories; is it the right archive?"
        )
    return content
