"""Reading the released V-MoE checkpoints (sharded msgpack, version 20220622) with msgpack and NumPy; no JAX.

    PREFIX.index                  {version, shard_count, index: tree whose leaves say shape, type, regions and shards}
    PREFIX.data-00000-of-00002    {"<number of the leaf>": [[flat arrays], region] …}; numbers count the sorted leaves

The files may be damaged or malicious: only named types are read, nothing in them is executed, sizes are compared with
the size of the file before memory of that size is allocated, and every region must occur exactly once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sfmoe_dg.foundation.errors import UserError

VERSION = "20220622"
_CHUNKS = "__msgpack_array_chunk_a87ca2__"
_NDARRAY, _REGION, _LEAF = 1, 6, 8
"""The extension types that parameters use; the format has nine."""
_STORED_AS = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}
_MAX_INDEX = 1 << 26
_MAX_ITEMS = 1 << 16
_MAX_PIECES = 4096
_MAX_OBJECT = (1 << 31) - 1

Region = tuple[tuple[int, int], ...]
"""(start, stop) per axis."""


@dataclass(frozen=True)
class Leaf:
    """One array of the checkpoint: its name, such as ``Encoder/encoder_norm/scale``, and the shard of every region."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    pieces: Mapping[Region, int]


class ShardedCheckpoint:
    """A checkpoint whose index has been read and checked; the arrays are read by :meth:`pieces`.

    Args:
        prefix: the path without ``.index`` (which may be there).

    Raises:
        UserError: if msgpack is not installed, a file is missing, or the index is not what this format says.

    Attributes:
        leaves: in the order of the file.
    """

    def __init__(self, prefix: str | os.PathLike[str]) -> None:
        self.prefix = Path(str(prefix).removesuffix(".index"))
        self._msgpack = _import_msgpack()
        self.index_path = Path(f"{self.prefix}.index")
        tree, shard_count = self._read_index()
        self.shards = self._find_shards(shard_count)
        self.leaves = tuple(self._flatten(tree, ()))
        if not self.leaves:
            raise self._foreign("it lists no arrays")
        self._check_sizes()

    def pieces(self) -> Iterator[tuple[Leaf, Region, np.ndarray]]:
        """Yield every region of every leaf once, as float32 in the shape of the region; one is in memory at a time.

        Raises:
            UserError: if a file is truncated or damaged, or does not hold what the index says.
        """
        for number, path in enumerate(self.shards):
            missing = {(leaf.name, region) for leaf in self.leaves for region, n in leaf.pieces.items() if n == number}
            with open(path, "rb") as file:
                for leaf, region, values in self._read_shard(path, file):
                    if (leaf.name, region) not in missing:
                        raise UserError(f"{path} is damaged: {leaf.name} {region} is there twice or in the wrong file")
                    missing.remove((leaf.name, region))
                    yield leaf, region, values
            if missing:
                names = sorted({name for name, _ in missing})
                raise UserError(f"{path} is incomplete: {len(names)} array(s) of the index are missing: {_few(names)}")

    # --------------------------------------------------------------------------------------------------- the index

    def _read_index(self) -> tuple[Mapping[str, Any], int]:
        path = self.index_path
        if not path.is_file():
            near = sorted(str(p) for p in path.parent.glob(f"{self.prefix.name}*.index"))
            found = f"there is {_few(near)}" if near else "give the checkpoint's path without .index"
            raise UserError(f"{path} does not exist; {found}")
        if path.stat().st_size > _MAX_INDEX:
            raise self._foreign(f"it is larger than {_MAX_INDEX >> 20} MiB")
        try:
            index = self._unpack(path.read_bytes(), raw=False, ext_hook=self._leaf_fields, strict_map_key=True)
        except _unreadable(self._msgpack) as error:
            raise self._foreign(str(error) or type(error).__name__) from None
        if not isinstance(index, dict) or not isinstance(index.get("index"), dict):
            raise self._foreign("it has no tree of arrays")
        if index.get("version") != VERSION:
            raise self._foreign(f"its version is {index.get('version')!r}, not {VERSION!r}")
        if not _is_int(index.get("shard_count"), 1, 99_999):
            raise self._foreign(f"its shard_count is {index.get('shard_count')!r}")
        return index["index"], index["shard_count"]

    def _find_shards(self, count: int) -> list[Path]:
        paths = [Path(f"{self.prefix}.data-{i:05d}-of-{count:05d}") for i in range(count)]
        missing = [path.name for path in paths if not path.is_file()]
        if missing:
            raise UserError(
                f"{self.prefix} is incomplete: {len(missing)} of {count} files are missing: {_few(missing)}"
            )
        return paths

    def _flatten(self, tree: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[Leaf]:
        if not all(isinstance(key, str) for key in tree):
            raise self._foreign(f"it holds a name that is no text below {'/'.join(path) or 'its root'}")
        for key in sorted(tree):
            value, name = tree[key], (*path, key)
            if isinstance(value, dict) and len(name) < 16:
                yield from self._flatten(value, name)
            elif isinstance(value, _Fields):
                yield self._leaf("/".join(name), value)
            else:
                raise self._foreign(f"{'/'.join(name)} is not an array")

    def _leaf_fields(self, code: int, data: bytes) -> _Fields:
        if code != _LEAF:
            raise ValueError(f"it holds extension type {code}")
        shaped, regions, shards = self._unpack(data, raw=True)
        shape, dtype, *_ = self._unpack(shaped, raw=True)
        return _Fields(tuple(shape), dtype.decode(), [self._slices(r) for r in regions], list(shards))

    def _slices(self, data: bytes) -> list[Any]:
        return [self._unpack(s, raw=True) for s in self._unpack(data, raw=True)]

    def _leaf(self, name: str, fields: _Fields) -> Leaf:
        shape = fields.shape
        if not all(_is_int(n, 1, _MAX_OBJECT) for n in shape):
            raise self._foreign(f"{name} has the shape {shape}")
        if fields.dtype not in _STORED_AS:
            raise self._foreign(f"{name} is of type {fields.dtype}; known: {', '.join(_STORED_AS)}")
        regions = [_region(slices, shape) for slices in fields.regions]
        known = all(_is_int(n, 0, len(self.shards) - 1) for n in fields.shards)
        if None in regions or not known or len(regions) != len(fields.shards) or not _tiles(regions, shape):
            raise self._foreign(f"the regions of {name} do not make up its shape {shape}")
        return Leaf(name, shape, fields.dtype, dict(zip(regions, fields.shards, strict=True)))  # type: ignore[arg-type]

    def _check_sizes(self) -> None:
        wanted = sum(prod(leaf.shape) * np.dtype(_STORED_AS[leaf.dtype]).itemsize for leaf in self.leaves)
        there = sum(path.stat().st_size for path in self.shards)
        if wanted > there:
            raise UserError(
                f"{self.prefix} is truncated: its index promises {wanted:,} bytes of arrays, its files have {there:,}"
            )

    # -------------------------------------------------------------------------------------------------- the shards

    def _read_shard(self, path: Path, file: BinaryIO) -> Iterator[tuple[Leaf, Region, np.ndarray]]:
        limits = {"max_buffer_size": _MAX_OBJECT, "max_array_len": _MAX_ITEMS, "max_map_len": _MAX_ITEMS}
        unpacker = self._msgpack.Unpacker(file, raw=False, ext_hook=self._array_or_region, **limits)
        try:
            for _ in range(unpacker.read_map_header()):
                key = unpacker.unpack()
                if key == _CHUNKS:
                    unpacker.unpack()
                    continue
                leaf = self._leaf_of(key)
                for _ in range(unpacker.read_array_header()):
                    arrays, slices = unpacker.unpack()
                    region = _region(slices, leaf.shape)
                    if region is None:
                        raise ValueError(f"a region of {leaf.name} is {slices}")
                    yield leaf, region, _values(arrays, leaf, region)
        except self._msgpack.exceptions.OutOfData:
            size = path.stat().st_size
            raise UserError(f"{path} is truncated: it ends after {size:,} bytes, in the middle of an array") from None
        except _unreadable(self._msgpack) as error:
            why = str(error) or type(error).__name__
            raise UserError(f"{path} is not a data file of a V-MoE checkpoint: {why}") from None
        if unpacker.tell() != path.stat().st_size:
            raise UserError(f"{path} is damaged: something follows after its end")

    def _leaf_of(self, key: Any) -> Leaf:
        if not (isinstance(key, str) and key.isascii() and key.isdigit() and int(key[:9]) < len(self.leaves)):
            raise ValueError(f"it holds an entry {str(key)[:40]!r}, not the number of an array")
        return self.leaves[int(key[:9])]

    def _array_or_region(self, code: int, data: bytes) -> Any:
        if code == _REGION:
            return self._slices(data)
        if code != _NDARRAY:
            raise ValueError(f"it holds extension type {code}")
        shape, dtype, raw = self._unpack(data, raw=True)
        dtype = dtype.decode()
        if dtype not in _STORED_AS:
            raise ValueError(f"it holds an array of type {dtype}")
        values = np.frombuffer(raw, _STORED_AS[dtype])
        if values.shape != (prod(shape),):
            raise ValueError(f"an array of shape {shape} has {values.size} values")
        return dtype, values

    def _unpack(self, data: bytes, **options: Any) -> Any:
        return self._msgpack.unpackb(data, **options)

    def _foreign(self, why: str) -> UserError:
        return UserError(f"{self.index_path} is not the index of a V-MoE checkpoint: {why}")


@dataclass(frozen=True)
class _Fields:
    """A leaf of the index as it was read, not yet checked."""

    shape: tuple[Any, ...]
    dtype: str
    regions: list[list[Any]]
    shards: list[Any]


def _values(arrays: Any, leaf: Leaf, region: Region) -> np.ndarray:
    """Concatenate flat arrays and give them the shape of their region."""
    if not (isinstance(arrays, list) and arrays and all(isinstance(a, tuple) and a[0] == leaf.dtype for a in arrays)):
        raise ValueError(f"{leaf.name} is not made of {leaf.dtype} arrays")
    flat = [values for _, values in arrays]
    whole = flat[0] if len(flat) == 1 else np.concatenate(flat)
    shape = tuple(stop - start for start, stop in region)
    if whole.size != prod(shape):
        raise ValueError(f"{leaf.name} has {whole.size} values for the region {region}")
    if leaf.dtype == "bfloat16":
        # bfloat16, for which NumPy has no type, is the upper half of a float32.
        whole = (whole.astype("<u4") << 16).view("<f4")
    return whole.astype(np.float32, copy=False).reshape(shape)


def _region(slices: Any, shape: tuple[int, ...]) -> Region | None:
    """(start, stop) per axis; None if that is not a region of an array of this shape."""
    if not isinstance(slices, list) or len(slices) != len(shape):
        return None
    region = []
    for part, size in zip(slices, shape, strict=True):
        if not isinstance(part, list) or len(part) != 3 or part[2] not in (None, 1):
            return None
        start = 0 if part[0] is None else part[0]
        stop = size if part[1] is None else part[1]
        if not (_is_int(start, 0, size - 1) and _is_int(stop, start + 1, size)):
            return None
        region.append((start, stop))
    return tuple(region)


def _tiles(regions: list[Region | None], shape: tuple[int, ...]) -> bool:
    """Whether the regions cover the shape without overlap: volumes add up and no two of them meet."""
    if not 0 < len(regions) <= _MAX_PIECES:
        return False
    bounds = np.array(regions, dtype=np.int64).reshape(len(regions), len(shape), 2)
    if sum(prod(stop - start for start, stop in region or ()) for region in regions) != prod(shape):
        return False
    for i, region in enumerate(bounds[:-1]):
        later = bounds[i + 1 :]
        if (np.minimum(later[..., 1], region[:, 1]) > np.maximum(later[..., 0], region[:, 0])).all(-1).any():
            return False
    return True


def _is_int(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _unreadable(msgpack: Any) -> tuple[type[BaseException], ...]:
    """Exceptions that reading a file of another format can raise."""
    return (ValueError, TypeError, AttributeError, OverflowError, RecursionError, msgpack.exceptions.UnpackException)


def _import_msgpack() -> Any:
    try:
        import msgpack
    except ImportError:
        raise UserError("reading V-MoE checkpoints needs the package msgpack: pip install 'sfmoe-dg[vmoe]'") from None
    return msgpack
