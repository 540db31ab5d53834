"""Annotations of images beyond their class: where their parts are and which attributes they have.

Legend: N images, P parts, A attributes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from sfmoe_dg.data.cub_dg.names import FOLDER, TABLE
from sfmoe_dg.data.domains import DomainDataset
from sfmoe_dg.foundation.errors import UserError

NOT_VISIBLE = 1
"""CUB's certainty for an attribute that is not visible on the image. Its answer is treated as unknown."""


@dataclass(frozen=True, eq=False)
class Annotations:
    """Annotations of some images.

    Attributes:
        part_names: P names, none if the data set has no parts.
        parts: float32 [N, P, 3]: x and y as shares of the picture's width and height, from its upper left corner, and
            1 if visible; otherwise NaN, NaN, 0.
        attribute_names: A names.
        attributes: float32 [N, A], 1 or 0, a share in between where only a class's share is known, NaN if unknown.
    """

    part_names: tuple[str, ...]
    parts: np.ndarray
    attribute_names: tuple[str, ...]
    attributes: np.ndarray


def no_annotations(num_images: int) -> Annotations:
    """The annotations of a data set without parts and attributes."""
    return Annotations((), np.zeros((num_images, 0, 3), np.float32), (), np.zeros((num_images, 0), np.float32))


def annotate(dataset: DomainDataset, data_dir: str | None, domain: np.ndarray, index: np.ndarray) -> Annotations:
    """The annotations of images ``index`` of domains ``domain``, int64 [N] each.

    StyledDigits and CUB-DG have parts and attributes (CUB-DG needs the table that its builder writes); other data sets
    have none.

    Raises:
        UserError: if CUB-DG's table does not exist or lacks an image.
    """
    reader = _READERS.get(dataset.name)
    return no_annotations(len(index)) if reader is None else reader(dataset, data_dir, domain, index)


def identities_of(dataset: DomainDataset, domain: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Which object each image shows, int64 [N]; -1 where the data set does not say."""
    identities = np.full(len(index), -1, dtype=np.int64)
    for env, of_domain in enumerate(dataset):
        if of_domain.identities is not None:
            identities[domain == env] = of_domain.identities[index[domain == env]]
    return identities


def _digits(dataset: DomainDataset, data_dir: str | None, domain: np.ndarray, index: np.ndarray) -> Annotations:
    from sfmoe_dg.data.sets import digit_attributes
    from sfmoe_dg.data.sets.styled_digits import SIZE

    digit = identities_of(dataset, domain, index)
    parts = digit_attributes.parts()[digit].astype(np.float32)
    # Positions are counted from the centre of the first pixel.
    parts[..., :2] = np.where(parts[..., 2:] > 0, (parts[..., :2] + 0.5) / SIZE, np.nan)
    attributes = digit_attributes.attributes()[digit].astype(np.float32)
    return Annotations(digit_attributes.PARTS, parts, tuple(digit_attributes.ATTRIBUTES), attributes)


def _birds(dataset: DomainDataset, data_dir: str | None, domain: np.ndarray, index: np.ndarray) -> Annotations:
    from sfmoe_dg.data.cub_dg.table import read_table

    path = os.path.join(data_dir or "", FOLDER, TABLE)
    table = read_table(path)
    row_of = {key: row for row, key in enumerate(zip(table.domain, table.name, strict=True))}
    names = [dataset.identity_names[i] for i in identities_of(dataset, domain, index)]
    keys = [(dataset[env].name, name) for env, name in zip(domain.tolist(), names, strict=True)]
    missing = [key for key in keys if key not in row_of]
    if missing:
        raise UserError(f"{path} lacks {len(missing)} of {len(keys)} images, the first is {'/'.join(missing[0])}")
    rows = np.array([row_of[key] for key in keys], dtype=np.int64)
    parts = table.parts[rows].astype(np.float32)
    parts[..., :2] /= table.size[rows][:, None, :]
    present = np.where(table.certainty[rows] == NOT_VISIBLE, np.nan, table.present[rows]).astype(np.float32)
    return Annotations(table.part_names, parts, table.attribute_names, present)


_Reader = Callable[[DomainDataset, "str | None", np.ndarray, np.ndarray], Annotations]

_READERS: Mapping[str, _Reader] = {"StyledDigits": _digits, "CUBDG": _birds}
