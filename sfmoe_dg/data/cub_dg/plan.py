"""The plan of a build of CUB-DG: all files that it will make, from which bytes and with which parameters.

The plan depends on the inputs and the parameters alone, not on files that are already made or on the number of
processes, so that an interrupted and continued build ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import PIL
import torch

from sfmoe_dg.data.builders.manifest import sha256_of
from sfmoe_dg.data.cub_dg.birds import Birds, read_birds
from sfmoe_dg.data.cub_dg.names import NATURAL
from sfmoe_dg.data.cub_dg.pictures import JPEG_OPTIONS, Placement, read_header
from sfmoe_dg.data.cub_dg.styles import WEIGHT_SUFFIXES, load_style
from sfmoe_dg.foundation.cores import file_threads
from sfmoe_dg.foundation.errors import UserError

FORMAT = 1
DEFAULT_STYLES = ("candy", "mosaic", "udnie")
GPU_BATCH = 16
DEVICES = ("cpu", "cuda", "mps")

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*$")


@dataclass(frozen=True)
class BuildOptions:
    """The options of a build.

    Attributes:
        cub: the folder ``CUB_200_2011`` or the one that holds it.
        out: the folder that will hold ``CUB_DG``.
        weights: where ``<style>.pth`` lies for every style given by its name alone.
        styles: ``name`` or ``name=file``.
        size: the shorter side in pixels; None keeps every picture's size.
        jobs: processes; None: one per core on the CPU, at most 4 on a GPU.
        device: of the style networks; None: a GPU if there is one.
        batch_size: pictures of one size that pass a network together; None: 1 on the CPU (faster there), 16 on a GPU.
        allow_missing: build the images that are there, though ``images.txt`` lists more.
    """

    cub: Path
    out: Path
    weights: Path | None = None
    styles: tuple[str, ...] = DEFAULT_STYLES
    size: int | None = None
    jobs: int | None = None
    device: str | None = None
    batch_size: int | None = None
    allow_missing: bool = False


@dataclass(frozen=True)
class StyleFile:
    """The weights that make one domain; see ``styles.StyleNetwork``."""

    domain: str
    path: Path
    sha256: str
    widths: tuple[int, ...]
    dropped: tuple[str, ...]


@dataclass(frozen=True)
class SourcePhoto:
    """One image of CUB whose file exists.

    Attributes:
        row: its row in ``Birds``.
        path: ``class/file``.
        sha256: of its bytes.
        mode: Pillow's.
        placement: how it becomes the picture in CUB-DG.
    """

    row: int
    path: str
    sha256: str
    mode: str
    placement: Placement

    @property
    def name(self) -> str:
        """``class/stem``, the same in all domains."""
        return str(PurePosixPath(self.path).with_suffix(""))

    @property
    def is_copied(self) -> bool:
        """Whether the natural picture is a copy of CUB's file, since nothing has to change in it."""
        return self.mode == "RGB" and self.placement == Placement(self.placement.stored, 1, self.placement.stored)

    def file(self, domain: str) -> str:
        """Its path in one domain, below ``CUB_DG``."""
        return f"{domain}/{self.path}" if domain == NATURAL and self.is_copied else f"{domain}/{self.name}.jpg"


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything a build will make.

    Attributes:
        birds: the annotations, also of images that are not there.
        sources: the images that are there, in the order of ``images.txt``.
        styles: one per stylised domain.
        device, batch_size, size: see ``BuildOptions``, resolved.
    """

    birds: Birds
    sources: tuple[SourcePhoto, ...]
    styles: tuple[StyleFile, ...]
    device: torch.device
    batch_size: int
    size: int | None

    @property
    def domains(self) -> tuple[str, ...]:
        """In the order of the folders."""
        return tuple(sorted([NATURAL, *(style.domain for style in self.styles)]))

    @property
    def files(self) -> list[str]:
        """Every picture below ``CUB_DG``, in the order of the table: by image, then by domain."""
        return [source.file(domain) for source in self.sources for domain in self.domains]

    @property
    def batches(self) -> list[tuple[SourcePhoto, ...]]:
        """Pictures of one size that pass the networks together."""
        by_size: dict[tuple[int, int], list[SourcePhoto]] = {}
        for source in self.sources:
            by_size.setdefault(source.placement.size, []).append(source)
        step = self.batch_size
        chunks = [tuple(group[i : i + step]) for group in by_size.values() for i in range(0, len(group), step)]
        return sorted(chunks, key=lambda chunk: chunk[0].row)

    def manifest(self) -> dict[str, Any]:
        """The inputs' checksums and the parameters, for the manifest; equal for equal builds."""
        birds, sources = self.birds, self.sources
        built = {int(birds.labels[source.row]) for source in sources}
        return {
            "format": FORMAT,
            "domains": list(self.domains),
            "classes": [name for label, name in enumerate(birds.classes) if label in built],
            "parameters": {
                "short_side": self.size,
                "batch_size": self.batch_size,
                "device": self.device.type,
                "jpeg": dict(JPEG_OPTIONS),
            },
            "styles": {style.domain: _described(style) for style in self.styles},
            "text_files": {name: sha256_of(birds.root / name) for name in birds.text_files},
            "attributes": {
                "source": birds.attributes.source,
                "lines_with_extra_fields": birds.attributes.extra_field_lines,
                "repeated": birds.attributes.repeated,
                "unlabelled": birds.attributes.unlabelled,
            },
            "counts": {
                "listed": len(birds),
                "built": len(sources),
                "missing": len(birds) - len(sources),
                "copied": sum(source.is_copied for source in sources),
                "not_rgb": sum(source.mode != "RGB" for source in sources),
                "turned": sum(source.placement.orientation != 1 for source in sources),
            },
            "versions": {
                "python": ".".join(platform.python_version_tuple()[:2]),
                "torch": torch.__version__,
                "numpy": np.__version__,
                "pillow": PIL.__version__,
            },
            "images": {source.name: _origin(birds, source) for source in sources},
        }


def _described(style: StyleFile) -> dict[str, Any]:
    return {
        "file": style.path.name,
        "sha256": style.sha256,
        "widths": list(style.widths),
        "dropped_keys": len(style.dropped),
    }


def _origin(birds: Birds, source: SourcePhoto) -> dict[str, Any]:
    return {
        "id": int(birds.ids[source.row]),
        "split": split_name(birds, source.row),
        "file": source.path,
        "sha256": source.sha256,
    }


def split_name(birds: Birds, row: int) -> str:
    """ "train" or "test", CUB's official split."""
    return "train" if birds.is_train[row] else "test"


def make_plan(options: BuildOptions) -> Plan:
    """Read the annotations, the weights and every image's bytes.

    Raises:
        UserError: on inputs that are missing or do not fit, and on parameters out of range.
    """
    for name, value in (("size", options.size), ("jobs", options.jobs), ("batch_size", options.batch_size)):
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}; it must be at least 1", name)
    device = _device(options.device)
    birds = read_birds(options.cub)
    styles = tuple(_style_files(options.styles, options.weights))
    sources = _sources(birds, options.size, options.allow_missing)
    batch_size = options.batch_size or (1 if device.type == "cpu" else GPU_BATCH)
    return Plan(birds, sources, styles, device, batch_size, options.size)


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in DEVICES:  # torch knows more kinds, such as "meta", which holds no values
            raise NotImplementedError(f"pictures are painted on {', '.join(DEVICES)}")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"device {name} cannot be used ({reason}); give cpu, or cuda on a machine with a GPU", "device"
        ) from None
    return device


def _style_files(styles: Sequence[str], weights: Path | None) -> Iterable[StyleFile]:
    seen = {NATURAL.casefold()}
    for style in styles:
        name, _, given = style.partition("=")
        if not _NAME.match(name) or name.casefold() in seen:
            raise UserError(
                f"style {style!r}: give every style once, by a name of letters and digits other than natural, or as "
                "name=file"
            )
        seen.add(name.casefold())
        path = Path(given) if given else _weight_file(name, weights)
        loaded = load_style(path)
        yield StyleFile(name[0].upper() + name[1:], path, sha256_of(path), loaded.widths, loaded.dropped)


def _weight_file(name: str, weights: Path | None) -> Path:
    """``name`` with one of the known endings, or the only file that starts with ``name_`` (``candy_nc16.pth``)."""
    if weights is None or not weights.is_dir():
        raise UserError(f"weights is {weights}, which is not a folder; style {name} is looked for there", "weights")
    files = sorted(path for path in weights.iterdir() if path.suffix in WEIGHT_SUFFIXES)
    found = [path for path in files if path.stem == name] or [p for p in files if p.stem.startswith(f"{name}_")]
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} files for style {name} ({', '.join(p.name for p in found)})" if found else f"no {name}.pth"
    there = ", ".join(path.name for path in files) or "no weights at all"
    hint = "" if found else f", only {there}"
    raise UserError(f"{weights} holds {what}{hint}; name the file with styles {name}=FILE", "styles")


def _sources(birds: Birds, short_side: int | None, allow_missing: bool) -> tuple[SourcePhoto, ...]:
    rows = [row for row in range(len(birds)) if birds.image_path(row).is_file()]
    missing = len(birds) - len(rows)
    if not rows or (missing and not allow_missing):
        gone = sorted(set(range(len(birds))) - set(rows))[0]
        hint = "or build those that are there with allow_missing" if rows else "there is nothing to build"
        raise UserError(
            f"{missing} of the {len(birds)} images of {birds.root / 'images.txt'} are missing, the first is "
            f"{birds.image_path(gone)}; unpack all of CUB-200-2011, {hint}",
            "allow_missing",
        )
    with ThreadPoolExecutor(max_workers=file_threads()) as pool:
        return tuple(pool.map(lambda row: _source(birds, row, short_side), rows))


def _source(birds: Birds, row: int, short_side: int | None) -> SourcePhoto:
    path = birds.image_path(row)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"image {path} cannot be read ({error.strerror}); check the disk and the permissions") from None
    header = read_header(content, path)
    placement = Placement.of(header, short_side)
    return SourcePhoto(row, birds.paths[row], hashlib.sha256(content).hexdigest(), header.mode, placement)
