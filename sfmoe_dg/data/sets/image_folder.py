"""Data sets that lie in folders, ``root/domain/class/image``: PACS, VLCS, OfficeHome, TerraIncognita, DomainNet, SVIRO,
CUB-DG, and any other (``--dataset ImageFolder --data_dir root``).

Files are listed in torchvision's order (``datasets.folder.make_dataset``), on which DomainBed's splits depend.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from sfmoe_dg.data.domains import Domain, DomainDataset
from sfmoe_dg.data.facts.dataset_facts import DatasetFacts
from sfmoe_dg.data.facts.image_folders import IMAGE_EXTENSIONS
from sfmoe_dg.foundation.cores import file_threads
from sfmoe_dg.foundation.errors import UserError

# Pillow refuses pictures above twice its limit. Below that it warns, once per picture and in each worker.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class BadImageError(UserError):
    """The file could be read, but it is not a complete image."""


def load_rgb(path: str) -> Image.Image:
    """Decode a whole image to RGB, ignoring its EXIF orientation as DomainBed does.

    16-bit grey is scaled to 8 bits (Pillow alone would clip it to white).

    Raises:
        BadImageError: if the file is truncated, not an image, or so large that Pillow suspects a decompression bomb.
        UserError: if the file cannot be read, or there is no memory for it.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return _to_rgb(image)
    except MemoryError:  # this says nothing about the image either
        raise UserError(f"there is no memory left to decode image {path}; make some free") from None
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error, …
        # With an errno, the file system failed; that says nothing about the image.
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(
                f"image {path} cannot be read ({error.strerror}); check the disk and the permissions"
            ) from None
        reason = "not an image" if isinstance(error, Image.UnidentifiedImageError) else str(error).rstrip(".")
        raise BadImageError(
            f"image {path} does not decode ({reason}); replace it, or leave such images out with on_bad_image skip",
            "on_bad_image",
        ) from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


class FolderDomain(Domain):
    """A domain whose images are files below one folder."""

    def __init__(self, folder: str, files: Sequence[str], targets: Sequence[int] | np.ndarray) -> None:
        super().__init__(os.path.basename(folder), targets)
        self.folder = folder
        # One array of bytes: a list of half a million strings would be copied into every worker process as soon as
        # Python counts references to them.
        self._files = np.array([os.fsencode(file) for file in files], dtype=np.bytes_)

    @property
    def files(self) -> list[str]:
        """Every image's path below ``folder``: ``class/…/image``."""
        return [os.fsdecode(file) for file in self._files]

    def path(self, index: int) -> str:
        return os.path.join(self.folder, os.fsdecode(self._files[index]))

    def image(self, index: int) -> Image.Image:
        return load_rgb(self.path(index))


@dataclass(frozen=True)
class _Listing:
    """The files of one domain: parallel tuples of paths below the folder and classes."""

    folder: str
    classes: tuple[str, ...]
    files: tuple[str, ...]
    targets: tuple[int, ...]
    ignored: tuple[str, ...]

    @property
    def name(self) -> str:
        return os.path.basename(self.folder)


def read(entry: DatasetFacts, data_dir: str, on_bad_image: str) -> DomainDataset:
    """Open an image-folder data set; the ``reader`` of the catalog.

    Raises:
        UserError: if folders are missing or do not fit the facts, classes differ between domains, or a class has no
            image in some domain.
    """
    root = _find_root(entry, data_dir)
    names = _domain_folders(entry, root)
    listings = [_list_domain(os.path.join(root, name)) for name in names]
    _check_classes(entry, listings)
    skipped: tuple[str, ...] = ()
    if on_bad_image == "skip":
        listings, skipped = _without_bad_images(listings)
    for listing in listings:
        _check_no_class_empty(listing, len(skipped))
    domains = tuple(FolderDomain(item.folder, item.files, item.targets) for item in listings)
    return DomainDataset(
        name=entry.name,
        domains=domains,
        input_shape=entry.input_shape,
        class_names=listings[0].classes,
        labels=entry.labels or tuple(names),
        identity_names=_identify(domains) if "identity" in entry.splits else (),
        skipped=skipped,
        ignored=tuple(file for item in listings for file in item.ignored),
    )


def _subfolders(folder: str) -> list[str]:
    with os.scandir(folder) as found:
        return sorted(item.name for item in found if item.is_dir() and not item.name.startswith("."))


def _find_root(entry: DatasetFacts, data_dir: str) -> str:
    root = os.path.join(data_dir, entry.folder) if entry.folder else os.fspath(data_dir)
    if os.path.isdir(root):
        return root
    if not os.path.isdir(data_dir):
        raise UserError(
            f"data_dir {data_dir} is not a folder; give the folder that holds {entry.folder or 'the domains'}",
            "data_dir",
        )
    if set(entry.domains) <= set(_subfolders(data_dir)):
        parent = os.path.dirname(os.path.abspath(data_dir))
        raise UserError(
            f"data_dir {data_dir} holds the domains of {entry.name} itself; give its parent, {parent}, and name the "
            f"folder {entry.folder}",
            "data_dir",
        )
    raise UserError(
        f"{entry.name} is looked for in {root}, which is not a folder; data_dir must be the folder that holds "
        f"{entry.folder}",
        "data_dir",
    )


def _domain_folders(entry: DatasetFacts, root: str) -> list[str]:
    names = _subfolders(root)
    if not names:
        raise UserError(
            f"{root} holds no folders; {entry.name} needs one folder per domain there, with one per class in it"
        )
    if not entry.domains:
        return names
    missing, extra = sorted(set(entry.domains) - set(names)), sorted(set(names) - set(entry.domains))
    if missing or extra:
        raise UserError(
            f"the folders in {root} are not the domains of {entry.name}: {_difference(missing, extra)}; "
            f"it must hold exactly {', '.join(entry.domains)}"
        )
    return names


def _difference(missing: Sequence[str], extra: Sequence[str]) -> str:
    parts = [("missing", missing), ("extra", extra)]
    return ", ".join(f"{what} {_some(names)}" for what, names in parts if names)


def _some(names: Sequence[str], limit: int = 5) -> str:
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def _list_domain(folder: str) -> _Listing:
    classes = _subfolders(folder)
    files: list[str] = []
    targets: list[int] = []
    ignored: list[str] = []
    for target, name in enumerate(classes):
        # Sorted by folder, then by name within it: torchvision's order where classes have sub-folders.
        for parent, names in sorted(_walk(os.path.join(folder, name))):
            below = os.path.relpath(parent, folder)
            for file in sorted(names):
                if file.startswith("."):
                    continue
                is_image = file.lower().endswith(IMAGE_EXTENSIONS)
                (files if is_image else ignored).append(os.path.join(below if is_image else parent, file))
                if is_image:
                    targets.append(target)
    return _Listing(folder, tuple(classes), tuple(files), tuple(targets), tuple(ignored))


def _walk(folder: str) -> Iterator[tuple[str, list[str]]]:
    """Every folder below this one that is not hidden, links followed, and the names of its files.

    Raises:
        UserError: for a link to a folder that contains the link: its images would be listed without end.
        OSError: for a folder that cannot be read.
    """
    for parent, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        real = os.path.realpath(parent)
        for name in folders:
            path = os.path.join(parent, name)
            if os.path.islink(path) and f"{real}{os.sep}".startswith(f"{os.path.realpath(path)}{os.sep}"):
                raise UserError(f"{path} is a link to a folder that it lies in; remove it")
        yield parent, names


def _raise(error: OSError) -> None:
    raise error


def _check_classes(entry: DatasetFacts, listings: Sequence[_Listing]) -> None:
    first = listings[0]
    if not first.classes:
        raise UserError(f"domain {first.name} of {entry.name} is empty: {first.folder} holds no class folders")
    for other in listings[1:]:
        missing = sorted(set(first.classes) - set(other.classes))
        extra = sorted(set(other.classes) - set(first.classes))
        if missing or extra:
            raise UserError(
                f"the class folders of domain {other.name} differ from those of {first.name}: "
                f"{_difference(missing, extra)}, in {other.folder}; every domain must have the same classes"
            )
    if entry.num_classes and len(first.classes) != entry.num_classes:
        raise UserError(
            f"{entry.name} has {entry.num_classes} classes, but {os.path.dirname(first.folder)} holds "
            f"{len(first.classes)} ({_some(first.classes)}); complete it, or read it as dataset ImageFolder",
            "dataset",
        )


def _check_no_class_empty(listing: _Listing, num_skipped: int) -> None:
    present = set(listing.targets)
    empty = [name for target, name in enumerate(listing.classes) if target not in present]
    if empty:
        after = f" after {num_skipped} bad images were left out" if num_skipped else ""
        what = "no image at all" if not present else f"no image of class {_some(empty)}"
        raise UserError(
            f"domain {listing.name} has {what}{after}, in {listing.folder}; images end in {', '.join(IMAGE_EXTENSIONS)}"
        )


def _without_bad_images(listings: Sequence[_Listing]) -> tuple[list[_Listing], tuple[str, ...]]:
    """Decode every image once, before any split, so that only the files decide which images are left out."""
    kept, bad = [], []
    for listing in listings:
        paths = [os.path.join(listing.folder, file) for file in listing.files]
        good = decodable(paths)
        bad += [path for path, is_good in zip(paths, good, strict=True) if not is_good]
        positions = [i for i, is_good in enumerate(good) if is_good]
        files = tuple(listing.files[i] for i in positions)
        kept.append(replace(listing, files=files, targets=tuple(listing.targets[i] for i in positions)))
    return kept, tuple(bad)


def decodable(paths: Sequence[str]) -> list[bool]:
    """Whether each of the images decodes; every one is read once, in threads.

    Raises:
        UserError: as ``load_rgb``, but for bad images.
    """
    with ThreadPoolExecutor(max_workers=file_threads()) as pool:
        return list(pool.map(_decodes, paths))


def _decodes(path: str) -> bool:
    try:
        load_rgb(path)
    except BadImageError:
        return False
    return True


def _identify(domains: Sequence[FolderDomain]) -> tuple[str, ...]:
    """Number the photographs by class folder and file stem: they are the same photograph in all domains."""
    stems = [[str(PurePosixPath(file).with_suffix("")) for file in domain.files] for domain in domains]
    names = sorted({stem for domain_stems in stems for stem in domain_stems})
    number = {name: i for i, name in enumerate(names)}
    for domain, domain_stems in zip(domains, stems, strict=True):
        domain.identities = np.array([number[stem] for stem in domain_stems], dtype=np.int64)
    return tuple(names)
