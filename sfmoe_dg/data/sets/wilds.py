"""Camelyon17-WILDS and FMoW-WILDS (Koh et al. 2021) with DomainBed's environments: hospitals 0–4 and regions 0–5.

The ``wilds`` package reads the tables; it is imported only when one of these data sets is opened. As in DomainBed, the
images of all its splits are used, except FMoW's sequestered ones.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from sfmoe_dg.data.catalog import DatasetFacts
from sfmoe_dg.data.domains import DomainDataset
from sfmoe_dg.data.sets.listed_files import ListedDomain, apply_policy
from sfmoe_dg.foundation.errors import UserError


def read_camelyon(entry: DatasetFacts, data_dir: str, on_bad_image: str) -> DomainDataset:
    """96×96 patches of lymph nodes, with or without tumour in the middle, from five hospitals.

    Raises:
        UserError: if the data are not in ``data_dir/camelyon17_v1.0`` or not as published.
    """
    table = _open("camelyon17_dataset", "Camelyon17Dataset", entry, data_dir)
    return _dataset(entry, table, "hospital", table._input_array, ("no tumour", "tumour"), on_bad_image)


def read_fmow(entry: DatasetFacts, data_dir: str, on_bad_image: str) -> DomainDataset:
    """224×224 satellite images of 62 kinds of buildings and land use, from six regions (the last is "Other").

    Raises:
        UserError: if the data are not in ``data_dir/fmow_v1.1`` or not as published.
    """
    table = _open("fmow_dataset", "FMoWDataset", entry, data_dir)
    files = [f"images/rgb_img_{row}.png" for row in table.full_idxs]
    categories = sorted(table.category_to_idx, key=table.category_to_idx.__getitem__)
    return _dataset(entry, table, "region", files, tuple(categories), on_bad_image)


def _open(module: str, attribute: str, entry: DatasetFacts, data_dir: str) -> Any:
    folder = os.path.join(data_dir, entry.folder)
    if not os.path.isdir(folder):
        raise UserError(
            f"{entry.name} is looked for in {folder}, which is not a folder; see datasets/ for how to get it"
        )
    reader = getattr(import_wilds(f"wilds.datasets.{module}"), attribute)
    try:
        with warnings.catch_warnings():  # about its own groups and arrays; users cannot change these
            warnings.simplefilter("ignore", UserWarning)
            return reader(root_dir=data_dir, download=False)
    except FileNotFoundError as error:
        release = f"RELEASE_v{entry.folder.rpartition('_v')[2]}.txt"
        missing = error.filename or os.path.join(folder, release)
        raise UserError(f"{entry.name} is not whole: {missing} is missing; see datasets/ for how to get it") from None
    except (KeyError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"the tables in {folder} are not those of {entry.name} ({reason}); get it again") from None


def _dataset(
    entry: DatasetFacts, table: Any, field: str, files: Any, class_names: tuple[str, ...], on_bad_image: str
) -> DomainDataset:
    values = table.metadata_array[:, table.metadata_fields.index(field)].numpy()
    names = tuple(f"{field}_{value}" for value in np.unique(values))
    if names != entry.domains:
        raise UserError(
            f"{table.data_dir} holds {', '.join(names) or 'no image'}; {entry.name} has {', '.join(entry.domains)}"
        )
    targets, files = table.y_array.numpy(), np.asarray(files, dtype=object)
    # DomainBed resizes before it crops, so its crops come from the resized picture.
    size = (entry.input_shape[2], entry.input_shape[1])
    domains = [
        ListedDomain(name, str(table.data_dir), files[values == value].tolist(), targets[values == value], size)
        for name, value in zip(names, np.unique(values), strict=True)
    ]
    kept, skipped = apply_policy(domains, on_bad_image)
    return DomainDataset(
        name=entry.name,
        domains=kept,
        input_shape=entry.input_shape,
        class_names=class_names,
        labels=entry.labels,
        skipped=skipped,
    )


def import_wilds(module: str) -> ModuleType:
    """Import a module of wilds without its side effects.

    Through the package ``outdated``, it starts threads that look for new versions on the network, and sets an
    environment variable; it also switches off Pillow's protection against decompression bombs.
    """
    limit = Image.MAX_IMAGE_PIXELS
    with _absent("outdated"), _same_environment("OUTDATED_IGNORE"):
        try:
            return importlib.import_module(module)
        except ImportError as error:
            raise UserError(f"the package wilds cannot be imported ({error}); install it: pip install wilds") from None
        finally:
            Image.MAX_IMAGE_PIXELS = limit


@contextlib.contextmanager
def _absent(name: str) -> Iterator[None]:
    """Make ``import name`` fail inside the block; wilds works without this package."""
    missing = object()
    before: Any = sys.modules.get(name, missing)
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if before is missing:
            del sys.modules[name]
        else:
            sys.modules[name] = before


@contextlib.contextmanager
def _same_environment(name: str) -> Iterator[None]:
    before = os.environ.get(name)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before
