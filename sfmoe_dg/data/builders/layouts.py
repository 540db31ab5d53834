"""Turn archives into the folders that readers expect, and count images on disk; no torch, so scripts start fast."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from sfmoe_dg.data.builders.archive import gunzip
from sfmoe_dg.data.facts.image_folders import IMAGE_EXTENSIONS
from sfmoe_dg.foundation.errors import UserError

Counts = dict[str, Counter[str]]
"""Images per domain and class."""


def is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_EXTENSIONS) and not name.startswith(".")


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder that are not hidden, sorted."""
    return sorted(item for item in folder.iterdir() if item.is_dir() and not item.name.startswith("."))


def find_folder(root: Path, names: Sequence[str], what: str, depth: int = 3) -> Path:
    """The folder, ``root`` or up to ``depth`` levels below it, that holds all these names.

    Raises:
        UserError: if there is none; ``what`` names the archive in the sentence.
    """
    level = [root]
    for _ in range(depth + 1):
        for folder in level:
            if all((folder / name).exists() for name in names):
                return folder
        level = [below for folder in level for below in subfolders(folder)]
    shown = ", ".join(item.name for item in sorted(root.iterdir())[:5])
    raise UserError(
        f"{what} holds no folder with {', '.join(names)} (it begins with {shown}); is it the right archive?"
    )


def image_folders(
    domains: Sequence[str], aliases: Mapping[str, Sequence[str]] | None = None
) -> Callable[[Mapping[str, Path], Path], list[str]]:
    """A preparation (``recipe.Prepare``): the domains' folders, anywhere in the archive, become the data set.

    Args:
        aliases: other names under which a domain's folder occurs in archives.
    """

    def prepare(sources: Mapping[str, Path], target: Path) -> list[str]:
        ((file, extracted),) = sources.items()
        _use_own_names(extracted, aliases or {})
        root = find_folder(extracted, domains, file)
        rest = sorted(item.name for item in root.iterdir() if item.name not in domains)
        target.mkdir()
        for domain in domains:
            os.rename(root / domain, target / domain)
        return [f"left out of {file}: {', '.join(rest)}"] if rest else []

    return prepare


def _use_own_names(root: Path, aliases: Mapping[str, Sequence[str]], depth: int = 3) -> None:
    level = [root]
    for _ in range(depth):
        level = [below for folder in level for below in subfolders(folder)]
        for folder in list(level):
            for name, others in aliases.items():
                if folder.name in others and not (folder.parent / name).exists():
                    level.remove(folder)
                    level.append(folder.rename(folder.parent / name))


def one_folder(holds: Sequence[str], release: str = "") -> Callable[[Mapping[str, Path], Path], list[str]]:
    """A preparation: the folder in the archive that holds these names becomes the data set unchanged.

    Args:
        release: an empty file of this name is made if there is none; wilds looks for it.
    """

    def prepare(sources: Mapping[str, Path], target: Path) -> list[str]:
        ((file, extracted),) = sources.items()
        os.rename(find_folder(extracted, holds, file), target)
        if not release or (target / release).exists():
            return []
        (target / release).touch()
        return [f"{release} was not in {file} and is made, because the package wilds looks for it"]

    return prepare


def mnist_files(sources: Mapping[str, Path], target: Path) -> list[str]:
    """A preparation: MNIST's four gzip-compressed files to ``target/raw``."""
    (target / "raw").mkdir(parents=True)
    for file, archive in sources.items():
        gunzip(archive, target / "raw" / file.removesuffix(".gz"))
    return []


def cub_folder(sources: Mapping[str, Path], target: Path) -> list[str]:
    """A preparation: CUB's folder; the attributes' names, which lie beside it in the archive, are moved into it."""
    ((file, extracted),) = sources.items()
    root = find_folder(extracted, ("images", "images.txt"), file)
    names, place = root.parent / "attributes.txt", root / "attributes" / "attributes.txt"
    if names.is_file() and not place.exists():
        place.parent.mkdir(exist_ok=True)
        os.rename(names, place)
    os.rename(root, target)
    return []


def count_image_folders(folder: Path) -> Counts:
    """Images of ``folder/domain/class/…``, sub-folders of classes included unless they are hidden."""
    return {
        domain.name: Counter({name.name: _images_below(name) for name in subfolders(domain)})
        for domain in subfolders(folder)
    }


def _images_below(folder: Path) -> int:
    count = 0
    for _, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        count += sum(map(is_image, names))
    return count


def count_camelyon(folder: Path) -> Counts:
    """Patches of ``metadata.csv`` that are on disk, per hospital and class."""
    counts: Counts = {}
    for row in _table(folder / "metadata.csv"):
        node = f"patient_{row['patient']}_node_{row['node']}"
        patch = f"patches/{node}/patch_{node}_x_{row['x_coord']}_y_{row['y_coord']}.png"
        if (folder / patch).is_file():
            counts.setdefault(f"hospital_{row['center']}", Counter())[row["tumor"]] += 1
    return dict(sorted(counts.items()))


def count_fmow(folder: Path) -> Counts:
    """Images of ``rgb_metadata.csv`` that are on disk, per region and class; regions are numbered as they appear."""
    region_of = {row["alpha-3"]: row["region"] for row in _table(folder / "country_code_mapping.csv")}
    numbers: dict[str, int] = {}
    counts: Counts = {}
    for position, row in enumerate(_table(folder / "rgb_metadata.csv")):
        region = region_of.get(row["country_code"], "Other")
        number = numbers.setdefault(region, len(numbers))
        if row["split"] != "seq" and (folder / f"images/rgb_img_{position}.png").is_file():
            counts.setdefault(f"region_{number}", Counter())[row["category"]] += 1
    return dict(sorted(counts.items()))


def _table(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a CSV file, as dictionaries by column title.

    Raises:
        ValueError: if a row is too short, as in a file that was cut off.
    """
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        for row in reader:
            if None in row.values():
                raise ValueError(f"{path.name} is cut off in line {reader.line_num}")
            yield row


def count_idx(folder: Path) -> Counts:
    """Digits of MNIST's four files, by ``train`` and ``test``; only the labels are read.

    Raises:
        UserError: if a file is missing or not as long as its header says.
    """
    counts: Counts = {}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        labels = _idx_content(folder / "raw" / f"{prefix}-labels-idx1-ubyte", dimensions=1)
        _idx_content(folder / "raw" / f"{prefix}-images-idx3-ubyte", dimensions=3)
        counts[part] = Counter(map(str, labels))
    return counts


def _idx_content(path: Path, dimensions: int) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing; build MNIST again") from None
    header = 4 + 4 * dimensions
    size = 1
    for start in range(4, header, 4):
        size *= int.from_bytes(content[start : start + 4], "big")
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) != header + size:
        raise UserError(
            f"{path} has {len(content)} bytes, which does not fit its header; it is damaged, build MNIST again"
        )
    return content[header:]


def count_cub(folder: Path) -> Counts:
    """Images of ``images.txt`` that are on disk, by CUB's own ``train`` and ``test``, and class folder."""
    is_train = dict(_rows(folder / "train_test_split.txt"))
    counts: Counts = {"train": Counter(), "test": Counter()}
    for image, path in _rows(folder / "images.txt"):
        if (folder / "images" / path).is_file():
            counts["train" if is_train[image] == "1" else "test"][path.split("/")[0]] += 1
    return counts


def _rows(path: Path) -> list[list[str]]:
    return [line.split(maxsplit=1) for line in path.read_text().splitlines() if line.strip()]
