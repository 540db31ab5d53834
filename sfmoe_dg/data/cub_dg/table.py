"""The annotations of CUB-DG: one Parquet table with one row per picture; places are in pixels of that picture.

A part that is not visible has the coordinates NaN. Names of parts and attributes are in the schema's metadata.

Legend: R rows, P parts (15), A attributes (312).
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.files import atomic_file


@dataclass(frozen=True, eq=False)
class BirdTable:
    """The table in memory; arrays are parallel.

    Attributes:
        file: R paths below ``CUB_DG``: ``Domain/class/file``.
        sha256: R checksums of those files.
        domain, class_name: R names.
        name: R times ``class/stem``, the same for one photograph in all domains.
        image_id: int32 [R], CUB's.
        split: R times "train" or "test", CUB's official split.
        size: int32 [R, 2], width and height in pixels.
        box: float32 [R, 4], x, y, width, height.
        parts: float32 [R, P, 3], x, y, visible (1 or 0); NaN, NaN, 0 if not visible.
        present: float32 [R, A], see ``birds.BirdAttributes``.
        certainty: int8 [R, A], 1 to 4, 0 if not given.
        attribute_source: R times "image" or "class".
        part_names, attribute_names: P and A names.
    """

    file: Sequence[str]
    sha256: Sequence[str]
    domain: Sequence[str]
    class_name: Sequence[str]
    name: Sequence[str]
    image_id: np.ndarray
    split: Sequence[str]
    size: np.ndarray
    box: np.ndarray
    parts: np.ndarray
    present: np.ndarray
    certainty: np.ndarray
    attribute_source: Sequence[str]
    part_names: tuple[str, ...]
    attribute_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.file)


_TEXT = ("file", "sha256", "domain", "class_name", "name", "split", "attribute_source")
_BOX = ("box_x", "box_y", "box_width", "box_height")


def write_table(path: Path, table: BirdTable) -> None:
    """Write the table atomically; equal content gives equal bytes with the same version of pyarrow.

    Raises:
        UserError: if pyarrow is not installed.
    """
    arrow = pyarrow_module("pyarrow")
    columns = {column: arrow.array(list(getattr(table, column)), arrow.string()) for column in _TEXT}
    columns["image_id"] = arrow.array(table.image_id.astype(np.int32))
    columns |= {name: arrow.array(table.size[:, i].astype(np.int32)) for i, name in enumerate(("width", "height"))}
    columns |= {name: arrow.array(table.box[:, i].astype(np.float32)) for i, name in enumerate(_BOX)}
    lists = {
        "part_x": table.parts[..., 0].astype(np.float32),
        "part_y": table.parts[..., 1].astype(np.float32),
        "part_visible": table.parts[..., 2] > 0,
        "attribute_present": table.present.astype(np.float32),
        "attribute_certainty": table.certainty.astype(np.int8),
    }
    for name, values in lists.items():
        flat = arrow.array(np.ascontiguousarray(values).reshape(-1))
        columns[name] = arrow.FixedSizeListArray.from_arrays(flat, values.shape[1])
    names = {"part_names": json.dumps(table.part_names), "attribute_names": json.dumps(table.attribute_names)}
    with atomic_file(path) as file:
        pyarrow_module("pyarrow.parquet").write_table(arrow.table(columns, metadata=names), file, compression="zstd")


def read_table(path: str | Path) -> BirdTable:
    """Read what ``write_table`` wrote.

    Raises:
        UserError: if pyarrow is not installed, or the file is missing, damaged or another table.
    """
    arrow, parquet = pyarrow_module("pyarrow"), pyarrow_module("pyarrow.parquet")
    try:
        found = parquet.read_table(path)
        names = {key: tuple(json.loads(found.schema.metadata[key])) for key in (b"part_names", b"attribute_names")}
        columns = {name: found.column(name) for name in (*_TEXT, "image_id")}
        return BirdTable(
            **{name: columns[name].to_pylist() for name in _TEXT},
            image_id=columns["image_id"].to_numpy(),
            size=np.stack([found.column(name).to_numpy() for name in ("width", "height")], axis=1),
            box=np.stack([found.column(name).to_numpy() for name in _BOX], axis=1),
            parts=np.stack([_matrix(found, f"part_{what}", np.float32) for what in ("x", "y", "visible")], axis=-1),
            present=_matrix(found, "attribute_present", np.float32),
            certainty=_matrix(found, "attribute_certainty", np.int8),
            part_names=names[b"part_names"],
            attribute_names=names[b"attribute_names"],
        )
    except (OSError, KeyError, TypeError, ValueError, arrow.ArrowException) as error:
        raise UserError(f"{path} is not a table of CUB-DG's annotations ({error}); build it again") from None


def _matrix(table: Any, column: str, dtype: type) -> np.ndarray:
    """A column of lists, all of one length, as an array [R, length]."""
    chunks = table.column(column).combine_chunks()
    flat = chunks.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(chunks), -1).astype(dtype) if len(chunks) else np.zeros((0, 0), dtype)


def pyarrow_module(module: str) -> Any:
    """A module of pyarrow, which only CUB-DG needs.

    Raises:
        UserError: if it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError("CUB-DG's table needs pyarrow; install it with pip install 'sfmoe-dg[data]'") from None
