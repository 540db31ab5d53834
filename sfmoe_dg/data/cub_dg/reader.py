"""The reader of CUBDG: image folders, with CUB's official split of the birds if there is a manifest."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np

from sfmoe_dg.data.catalog import DatasetFacts
from sfmoe_dg.data.cub_dg.names import MANIFEST
from sfmoe_dg.data.domains import DomainDataset
from sfmoe_dg.data.sets import image_folder
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.files import read_json


def read(entry: DatasetFacts, data_dir: str, on_bad_image: str) -> DomainDataset:
    """Open CUB-DG; the ``reader`` of the catalog.

    An identity is a photograph: the same class and stem in every domain, named ``class/stem``.

    With the builder's ``manifest.json``, the folder must have the classes that it lists, also if they are fewer than
    200, and ``test_identities`` are the photographs of CUB's official test part. Without a manifest, the folder must
    have all classes, and no photograph is set apart.

    Raises:
        UserError: as ``image_folder.read``; and if the build is not complete, has other styles than the four of
            CUB-DG, or the folders do not hold what its manifest lists.
    """
    root = os.path.join(data_dir, entry.folder)
    path = os.path.join(root, MANIFEST)
    if not os.path.isfile(path):
        return image_folder.read(entry, data_dir, on_bad_image)
    classes, splits = _read_manifest(path, entry)
    dataset = image_folder.read(replace(entry, num_classes=len(classes)), data_dir, on_bad_image)
    unknown = [name for name in dataset.identity_names if name not in splits]
    if unknown or dataset.class_names != classes:
        what = f"image {unknown[0]}" if unknown else f"classes {', '.join(dataset.class_names[:3])}, …"
        raise UserError(f"{root} holds {what}, not as its {MANIFEST} lists; build CUB-DG again with datasets/cub_dg.py")
    listed, found = len(splits) * len(dataset), sum(map(len, dataset)) + len(dataset.skipped)
    if found != listed:
        raise UserError(
            f"{root} holds {found} pictures, not the {listed} that its {MANIFEST} lists; give datasets/cub_dg.py's "
            "command again, which makes those that are missing"
        )
    is_test = [splits[name] == "test" for name in dataset.identity_names]
    return replace(dataset, test_identities=np.flatnonzero(is_test).astype(np.int64))


def _read_manifest(path: str, entry: DatasetFacts) -> tuple[tuple[str, ...], dict[str, str]]:
    """The classes that were built, and "train" or "test" for every photograph, by ``class/stem``."""
    manifest: Any = read_json(path)
    try:
        complete, domains = manifest["complete"], tuple(manifest["domains"])
        classes, images = tuple(manifest["classes"]), manifest["images"]
        splits = {name: image["split"] for name, image in images.items()}
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is not a manifest of datasets/cub_dg.py; build CUB-DG again or remove it") from None
    if not complete:
        raise UserError(f"{os.path.dirname(path)} is not built to the end; give datasets/cub_dg.py's command again")
    if domains != entry.domains:
        raise UserError(
            f"{os.path.dirname(path)} was built with the domains {', '.join(domains)}, but {entry.name} is "
            f"{', '.join(entry.domains)}; read it as dataset ImageFolder with that folder as data_dir",
            "dataset",
            "data_dir",
        )
    return classes, splits
