"""Caches of decoded images, shared by all runs on a machine: memory-mapped uint8 pixels, one file per domain.

The results differ from reading the files: a picture whose shorter side exceeds ``SHORT_SIDE`` is shrunk before it is
stored, so crops are taken from the smaller picture and resized a second time. Other pictures are stored as they are
(PACS has 227 pixels: its caches hold exactly what the decoder gave).

A cache's name holds a hash of what it was made from: the paths of the images in their order, their sizes and times of
modification, the short side and the format below. If any of these changes, another cache is built; delete the folder
to remove old ones. The first run that needs a cache builds it, in threads, since Pillow decodes outside Python's lock;
other runs wait for it. A file gets its name only when it is complete.

The file: a header of 40 bytes, the index (little-endian int64 [N, 3]: offset in bytes from the first pixel, height,
width), then the pixels, [height, width, 3] of each image in turn.

Legend: N images of a domain, H height, W width.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from sfmoe_dg.data.domains import Domain, DomainDataset
from sfmoe_dg.data.sets.image_folder import FolderDomain
from sfmoe_dg.foundation.cores import file_threads
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.files import atomic_file
from sfmoe_dg.foundation.locks import file_lock

SHORT_SIDE = 256

_FORMAT = b"SFMoEDG1"
_HEADER = struct.Struct("<8sQQ16s")  # format, N, bytes of pixels, checksum of the index
_IMAGES_AT_ONCE = 256
_DEAD_AFTER = 3600.0  # a builder that wrote nothing for so many seconds is dead


class CachedDomain(Domain):
    """A domain whose pixels lie in a cache file. Each process maps the file when it reads its first image.

    Args:
        source: the domain that the cache was made from; it gives labels, identities and paths.
        file: the cache file.
        index: int64 [N, 3], as in the file.
    """

    def __init__(self, source: Domain, file: Path, index: np.ndarray) -> None:
        super().__init__(source.name, source.targets, source.identities)
        self._source, self._file, self._index = source, file, index
        self._mapped: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_mapped": None}  # each worker maps the file itself; its content is not sent to workers

    def path(self, index: int) -> str:
        return self._source.path(index)

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels(index))

    def pixels(self, index: int) -> np.ndarray:
        """One picture, uint8 [H, W, 3], as a view of the file. Writing to it changes this process's copy only."""
        if self._mapped is None:
            start = _HEADER.size + self._index.nbytes
            # Mode "c" gives writable memory that is never written back: torch warns of read-only arrays.
            self._mapped = np.asarray(np.memmap(self._file, np.uint8, mode="c", offset=start))
        offset, height, width = self._index[index].tolist()
        return self._mapped[offset : offset + height * width * 3].reshape(height, width, 3)


def cached(dataset: DomainDataset, folder: str | Path, short_side: int = SHORT_SIDE) -> DomainDataset:
    """The same data set, but its images are read from caches in ``folder``; missing caches are built.

    ``short_side`` is raised in proportion for models whose input is larger than 224 pixels.

    Raises:
        UserError: if the images do not lie in files, one of them does not decode, or ``folder`` cannot be written.
    """
    folder, domains = Path(folder), []
    short_side = max(short_side, dataset.input_shape[-1] * SHORT_SIDE // 224)
    for domain in dataset:
        if not isinstance(domain, FolderDomain):
            raise UserError(
                f"{dataset.name} does not lie in image files, so there is nothing to cache; set images to files",
                "images",
            )
        name = re.sub(r"\W+", "_", f"{dataset.name}-{domain.name}", flags=re.ASCII)
        file = folder / f"{name}-{_key(domain, short_side)}.pixels"
        domains.append(_open_or_build(domain, file, short_side))
    return replace(dataset, domains=tuple(domains))


def _key(domain: FolderDomain, short_side: int) -> str:
    """A hash of all that decides the pixels. It takes whole paths, since data sets may have the same file names."""
    found = hashlib.blake2b(repr((_FORMAT, short_side, getattr(domain, "size", None))).encode(), digest_size=12)
    for index in range(len(domain)):
        path = os.path.abspath(domain.path(index))
        try:
            state = os.stat(path)
        except OSError as error:
            raise UserError(
                f"image {path} cannot be read ({error.strerror}); check the disk and the permissions"
            ) from None
        found.update(os.fsencode(path) + b"\0%d %d\0" % (state.st_size, state.st_mtime_ns))
    return found.hexdigest()


def _open_or_build(domain: FolderDomain, file: Path, short_side: int) -> CachedDomain:
    index = _read_index(file, len(domain))
    if index is None:
        try:
            with file_lock(file.with_suffix(".lock")):
                index = _read_index(file, len(domain))  # another process may have built it meanwhile
                if index is None:
                    _remove_left_over(file.parent)
                    index = _build(domain, file, short_side)
        except OSError as error:
            raise UserError(
                f"the image cache {file.parent} cannot be written ({error.strerror or error}); make room there, choose "
                "another cache_dir, or set images to files",
                "cache_dir",
                "images",
            ) from None
    return CachedDomain(domain, file, index)


def _read_index(file: Path, count: int) -> np.ndarray | None:
    """The index, int64 [N, 3], or None if the cache file is missing, cut off or damaged."""
    try:
        with file.open("rb") as stream:
            header, index = stream.read(_HEADER.size), stream.read(count * 24)
            size = os.fstat(stream.fileno()).st_size
    except OSError:
        return None
    if len(header) < _HEADER.size:
        return None
    is_whole = size == _HEADER.size + count * 24 + _HEADER.unpack(header)[2]
    if not is_whole or header != _header(index, count, size - _HEADER.size - count * 24):
        return None
    return np.frombuffer(index, dtype="<i8").astype(np.int64).reshape(count, 3)


def _header(index: bytes, count: int, num_bytes: int) -> bytes:
    return _HEADER.pack(_FORMAT, count, num_bytes, hashlib.blake2b(index, digest_size=16).digest())


def _remove_left_over(folder: Path) -> None:
    """Delete what killed builders left. Locks may not work between machines, so recently written files stay."""
    for left_over in folder.glob(".*.pixels.*.tmp"):
        with suppress(OSError):
            if time.time() - left_over.stat().st_mtime > _DEAD_AFTER:
                left_over.unlink()


def _build(domain: FolderDomain, file: Path, short_side: int) -> np.ndarray:
    with atomic_file(file) as stream:
        stream.write(bytes(_HEADER.size + 24 * len(domain)))
        index = _write_pixels(domain, stream, short_side)
        in_file, num_bytes = index.astype("<i8").tobytes(), stream.tell() - _HEADER.size - index.nbytes
        stream.seek(0)
        stream.write(_header(in_file, len(domain), num_bytes) + in_file)
    return index


def _write_pixels(domain: FolderDomain, stream: BinaryIO, short_side: int) -> np.ndarray:
    """Append every picture in the order of the domain; returns the index, int64 [N, 3]."""
    index, offset = np.zeros((len(domain), 3), dtype=np.int64), 0
    with ThreadPoolExecutor(file_threads()) as pool:
        for start in range(0, len(domain), _IMAGES_AT_ONCE):  # decoded pictures that wait in memory: at most so many
            chosen = range(start, min(start + _IMAGES_AT_ONCE, len(domain)))
            for row, pixels in zip(chosen, pool.map(lambda i: _shrunk(domain, i, short_side), chosen), strict=True):
                stream.write(pixels.data)
                index[row] = offset, *pixels.shape[:2]
                offset += pixels.nbytes
    return index


def _shrunk(domain: FolderDomain, index: int, short_side: int) -> np.ndarray:
    """uint8 [H, W, 3], the shorter side at most ``short_side``."""
    image = domain.image(index)
    shorter = min(image.size)
    if shorter > short_side:
        width, height = (max(1, round(side * short_side / shorter)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image)
