"""Spawrious (Lynch et al. 2023): dogs on backgrounds that predict the breed in training, and mislead in the test.

Six data sets are chosen from the same folders, ``{0,1}/background/breed``, by rule. In the one-to-one sets (O2O) every
breed has its own background in training, except a few images on a background that all share; in the many-to-many sets
(M2M) pairs of breeds swap their two backgrounds between the domains. Breeds, backgrounds and numbers are DomainBed's.

If fewer images are taken than a folder holds, DomainBed takes the first that the file system lists, in an order that
differs between machines; here the first by name are taken.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sfmoe_dg.data.catalog import DatasetFacts
from sfmoe_dg.data.domains import DomainDataset
from sfmoe_dg.data.sets.listed_files import ListedDomain, apply_policy
from sfmoe_dg.foundation.errors import UserError

CLASSES = ("bulldog", "corgi", "dachshund", "labrador")
BREEDS = ("bulldog", "dachshund", "labrador", "corgi")
"""The order of the breeds in the rules and of the images in a domain."""

EXTENSIONS = (".png", ".jpg", ".jpeg")
FOLDER_SIZE = 3168
"""Images of one breed in one domain."""

OWN_BACKGROUND = (int(0.97 * FOLDER_SIZE), int(0.87 * FOLDER_SIZE))
"""O2O: how many of them show the breed's own background, per training domain; the rest show the shared one."""


class Rule(NamedTuple):
    """Backgrounds of ``BREEDS`` in training and in the test; ``shared`` only in the one-to-one sets."""

    train: tuple[str, str, str, str]
    test: tuple[str, str, str, str]
    shared: str = ""


class Part(NamedTuple):
    """Images of one folder: the first ``limit`` of them, or all."""

    environment: int
    background: str
    breed: str
    limit: int | None


RULES = {
    "SpawriousO2O_easy": Rule(
        ("desert", "jungle", "dirt", "snow"), ("dirt", "snow", "desert", "jungle"), shared="beach"
    ),
    "SpawriousO2O_medium": Rule(
        ("mountain", "beach", "dirt", "jungle"), ("jungle", "dirt", "beach", "snow"), shared="desert"
    ),
    "SpawriousO2O_hard": Rule(
        ("jungle", "mountain", "snow", "desert"), ("mountain", "snow", "desert", "jungle"), shared="beach"
    ),
    "SpawriousM2M_easy": Rule(("desert", "mountain", "dirt", "jungle"), ("dirt", "jungle", "mountain", "desert")),
    "SpawriousM2M_medium": Rule(("beach", "snow", "mountain", "desert"), ("desert", "mountain", "beach", "snow")),
    "SpawriousM2M_hard": Rule(("dirt", "jungle", "snow", "beach"), ("snow", "beach", "dirt", "jungle")),
}

_SWAPPED = (1, 0, 3, 2)


def parts(name: str) -> dict[str, list[Part]]:
    """Which folders make up each domain of a data set, in the order of its images."""
    rule = RULES[name]
    domains = _one_to_one(rule) if rule.shared else _many_to_many(rule)
    return dict(zip(("Test", "SC_group_1", "SC_group_2"), domains, strict=True))


def _one_to_one(rule: Rule) -> Iterator[list[Part]]:
    yield [Part(i, where, breed, None) for i in (0, 1) for breed, where in zip(BREEDS, rule.test, strict=True)]
    for i, own in enumerate(OWN_BACKGROUND):
        typical = [Part(i, where, breed, own) for breed, where in zip(BREEDS, rule.train, strict=True)]
        yield typical + [Part(i, rule.shared, breed, FOLDER_SIZE - own) for breed in BREEDS]


def _many_to_many(rule: Rule) -> Iterator[list[Part]]:
    orders = (range(4), _SWAPPED)
    yield [Part(0, rule.test[k], breed, None) for order in orders for breed, k in zip(BREEDS, order, strict=True)]
    for order in orders:
        yield [Part(0, rule.train[k], breed, FOLDER_SIZE) for breed, k in zip(BREEDS, order, strict=True)]


def read(entry: DatasetFacts, data_dir: str, on_bad_image: str) -> DomainDataset:
    """Open one of the six; the ``reader`` of the catalog.

    The folders ``0`` and ``1`` may lie in ``data_dir/spawrious224`` or, as DomainBed has it, in ``data_dir`` itself.

    Raises:
        UserError: if a folder that the rule names is missing or holds no image.
    """
    root = find_root(entry.folder, data_dir)
    domains = []
    for name, chosen in parts(entry.name).items():
        files: list[str] = []
        targets: list[int] = []
        for part in chosen:
            found = list_part(root, part)
            files += found
            targets += [CLASSES.index(part.breed)] * len(found)
        domains.append(ListedDomain(name, root, files, targets))
    kept, skipped = apply_policy(domains, on_bad_image)
    return DomainDataset(
        name=entry.name,
        domains=kept,
        input_shape=entry.input_shape,
        class_names=CLASSES,
        labels=entry.labels,
        skipped=skipped,
    )


def find_root(folder: str, data_dir: str) -> str:
    """The folder that holds ``0`` and ``1``.

    Raises:
        UserError: if there is none.
    """
    for root in (os.path.join(data_dir, folder), os.fspath(data_dir)):
        if os.path.isdir(os.path.join(root, "0")):
            return root
    raise UserError(
        f"Spawrious is looked for in {os.path.join(data_dir, folder)}, which has no folder 0; data_dir must be the "
        f"folder that holds {folder}",
        "data_dir",
    )


def list_part(root: str, part: Part) -> list[str]:
    """The images of a part, below ``root``.

    Raises:
        UserError: if there are none.
    """
    below = os.path.join(str(part.environment), part.background, part.breed)
    folder = os.path.join(root, below)
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    files = [os.path.join(below, name) for name in names if name.endswith(EXTENSIONS) and not name.startswith(".")]
    if not files:
        raise UserError(f"{folder} holds no image, which Spawrious needs; get it again, see datasets/spawrious.md")
    return files[: part.limit]


def count(folder: Path) -> dict[str, Counter[str]]:
    """Images of every domain of the six data sets, by breed; see ``DatasetFacts.counter``."""
    counts: dict[str, Counter[str]] = {}
    for name in RULES:
        for domain, chosen in parts(name).items():
            here = counts.setdefault(f"{name.removeprefix('Spawrious')} {domain}", Counter())
            for part in chosen:
                here[part.breed] += len(list_part(str(folder), part))
    return counts
