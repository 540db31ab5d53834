"""Caltech-UCSD Birds 200-2011 as its text files describe it: images, classes, official split, boxes, parts, attributes.

Nothing here decodes an image or imports torch. Coordinates are the annotators' own, in pixels of the picture as it is
stored, x to the right and y down.

Legend: N images in the order of ``images.txt``, P parts (15), A attributes (312).

Source: Wah, Branson, Welinder, Perona, Belongie, "The Caltech-UCSD Birds-200-2011 Dataset", CNS-TR-2011-001, and the
README that comes with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np

from sfmoe_dg.foundation.errors import UserError

T = TypeVar("T")

FOLDER = "CUB_200_2011"
LABEL_FIELDS = 5
"""Fields in a line of ``image_attribute_labels.txt``: image, attribute, present, certainty, seconds."""
NOT_GIVEN = 0
"""The certainty if nobody rated the attribute for that image (1 not visible, 2 guessing, 3 probably, 4 definitely)."""

_TEXT_FILES = (
    "images.txt",
    "classes.txt",
    "image_class_labels.txt",
    "train_test_split.txt",
    "bounding_boxes.txt",
    "parts/parts.txt",
    "parts/part_locs.txt",
)
_IMAGE_LABELS = "attributes/image_attribute_labels.txt"
_CLASS_LABELS = "attributes/class_attribute_labels_continuous.txt"


@dataclass(frozen=True, eq=False)
class BirdAttributes:
    """The annotators' answers about the birds.

    Attributes:
        names: A names, ``group::value``.
        present: float32 [N, A]. From image labels 0 or 1, NaN where nobody answered; from the class table the share of
            the class's images that show it, in [0, 1].
        certainty: int8 [N, A], 1 to 4, or ``NOT_GIVEN``.
        source: "image": one rating per image; "class": the class table, the same for every image of a class.
        extra_field_lines: lines of the label file with more fields than ``LABEL_FIELDS``; their first four are used.
        repeated: answers given more than once for an image and attribute; the last one counts.
        unlabelled: pairs of image and attribute without an answer.
    """

    names: tuple[str, ...]
    present: np.ndarray
    certainty: np.ndarray
    source: str
    extra_field_lines: int = 0
    repeated: int = 0
    unlabelled: int = 0


@dataclass(frozen=True, eq=False)
class Birds:
    """Every row of the text files, whether its image is there or not.

    Attributes:
        root: the folder ``CUB_200_2011``.
        ids: int64 [N], CUB's image ids.
        paths: N paths ``class/file`` below ``root / "images"``.
        classes: class names such as ``001.Black_footed_Albatross``.
        labels: int64 [N], position in ``classes``.
        is_train: bool [N], the official split.
        boxes: float64 [N, 4], x, y, width, height.
        part_names: P names.
        parts: float64 [N, P, 3], x, y and 1 where the part is visible; invisible parts are 0, 0, 0.
        attributes: see ``BirdAttributes``.
        text_files: the files that were read, as paths from ``root``.
    """

    root: Path
    ids: np.ndarray
    paths: tuple[str, ...]
    classes: tuple[str, ...]
    labels: np.ndarray
    is_train: np.ndarray
    boxes: np.ndarray
    part_names: tuple[str, ...]
    parts: np.ndarray
    attributes: BirdAttributes
    text_files: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def image_path(self, row: int) -> Path:
        """Where the image of a row is looked for."""
        return self.root / "images" / self.paths[row]


def read_birds(folder: str | Path) -> Birds:
    """Read every text file. ``folder`` is ``CUB_200_2011`` itself or the folder that holds it.

    Raises:
        UserError: naming the file, and the line where there is one, that is missing or does not fit the others.
    """
    root = _find_root(Path(folder))
    images = _Lines(root / "images.txt", 2)
    paths = _checked_paths(images)
    position = {int(image): row for row, image in enumerate(images.integers(0))}
    if len(position) < len(paths):
        raise UserError(
            f"{images.path} gives {len(paths) - len(position)} image ids twice; restore it from the archive"
        )
    class_ids, class_names = _named(root / "classes.txt")
    part_ids, part_names = _named(root / "parts/parts.txt")
    labels = _Lines(root / "image_class_labels.txt", 2)
    split = _Lines(root / "train_test_split.txt", 2)
    boxes = _Lines(root / "bounding_boxes.txt", 5)
    label_of_row = labels.known(1, class_ids, "class")[labels.rows(position)]
    for path, label in zip(paths, label_of_row, strict=True):
        if not path.startswith(f"{class_names[label]}/"):
            raise UserError(f"{labels.path} gives {path} the class {class_names[label]}; restore it from the archive")
    attributes, attribute_files = _read_attributes(root, position, label_of_row, len(class_names))
    return Birds(
        root=root,
        ids=np.array(images.integers(0), dtype=np.int64),
        paths=paths,
        classes=class_names,
        labels=label_of_row,
        is_train=split.known(1, {0: 0, 1: 1}, "split")[split.rows(position)] == 1,
        boxes=boxes.floats(slice(1, 5))[boxes.rows(position)],
        part_names=part_names,
        parts=_read_parts(root, position, part_ids),
        attributes=attributes,
        text_files=(*_TEXT_FILES, *attribute_files),
    )


def _find_root(folder: Path) -> Path:
    for root in (folder, folder / FOLDER):
        if (root / "images.txt").is_file():
            missing = [name for name in _TEXT_FILES if not (root / name).is_file()]
            if missing:
                raise UserError(f"{root} lacks {', '.join(missing)}; unpack all of CUB-200-2011 there")
            return root
    raise UserError(f"{folder} is not CUB-200-2011: no images.txt in it nor in {folder / FOLDER}")


class _Lines:
    """A text file of blank-separated fields; every complaint names the file and the line."""

    def __init__(self, path: Path, num_fields: int) -> None:
        self.path = path
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read ({error})") from None
        self.fields = [line.split(None, num_fields - 1) for line in lines]
        for number, fields in enumerate(self.fields, 1):
            if len(fields) != num_fields:
                raise UserError(f"{path}, line {number} has {len(fields)} fields, {num_fields} are expected")

    def integers(self, column: int) -> list[int]:
        return [self._number(number, fields[column], int) for number, fields in enumerate(self.fields, 1)]

    def floats(self, columns: slice) -> np.ndarray:
        rows = enumerate(self.fields, 1)
        return np.array([[self._number(number, text, float) for text in fields[columns]] for number, fields in rows])

    def _number(self, line: int, text: str, kind: Callable[[str], T]) -> T:
        try:
            return kind(text)
        except ValueError:
            raise self._fault(line, f"{text!r} where a number is expected") from None

    def _fault(self, line: int, what: str) -> UserError:
        return UserError(f"{self.path}, line {line} has {what}; restore the file from the archive")

    def known(self, column: int, numbers: dict[int, int], what: str) -> np.ndarray:
        """One column of ids as positions, int64 [lines]."""
        found = self.integers(column)
        for line, number in enumerate(found, 1):
            if number not in numbers:
                raise self._fault(line, f"the unknown {what} {number}")
        return np.array([numbers[number] for number in found], dtype=np.int64)

    def rows(self, position: dict[int, int]) -> np.ndarray:
        """The line that describes each image, int64 [N]."""
        images = self.known(0, position, "image id")
        line_of_row = np.full(len(position), -1, dtype=np.int64)
        line_of_row[images] = np.arange(len(images))
        without = int((line_of_row < 0).sum())
        if without or len(images) != len(position):
            raise UserError(
                f"{self.path} has {len(images)} lines and leaves out {without} of the {len(position)} images of "
                "images.txt; restore it from the archive"
            )
        return line_of_row


def _checked_paths(images: _Lines) -> tuple[str, ...]:
    """``class/file`` of every image, refusing what would be read or written outside the class folders."""
    stems: dict[str, int] = {}
    for line, (_, text) in enumerate(images.fields, 1):
        path = PurePosixPath(text)
        if len(path.parts) != 2 or ".." in path.parts or path.is_absolute() or path.name.startswith("."):
            raise UserError(f"{images.path}, line {line}: {text!r} is not a path of the form class/file")
        first = stems.setdefault(str(path.with_suffix("")), line)
        if first != line:
            raise UserError(f"{images.path}, lines {first} and {line} name the same image {path.with_suffix('')}")
    return tuple(text for _, text in images.fields)


def _named(path: Path) -> tuple[dict[int, int], tuple[str, ...]]:
    """A file of ids and names: ids to positions, and the names, in the order of the lines."""
    lines = _Lines(path, 2)
    return {number: i for i, number in enumerate(lines.integers(0))}, tuple(name for _, name in lines.fields)


def _read_parts(root: Path, position: dict[int, int], part_ids: dict[int, int]) -> np.ndarray:
    lines = _Lines(root / "parts/part_locs.txt", 5)
    images, parts = lines.known(0, position, "image id"), lines.known(1, part_ids, "part")
    found = np.full((len(position), len(part_ids), 3), np.nan)
    found[images, parts] = lines.floats(slice(2, 5))
    without = int(np.isnan(found[..., 2]).sum())
    if without:
        raise UserError(f"{lines.path} leaves out {without} parts of images; restore it from the archive")
    return np.where(found[..., 2:] > 0, found, 0.0)


def _read_attributes(
    root: Path, position: dict[int, int], labels: np.ndarray, num_classes: int
) -> tuple[BirdAttributes, tuple[str, ...]]:
    # In the archive, attributes.txt lies beside CUB_200_2011; in many copies it lies inside.
    candidates = ("attributes/attributes.txt", "attributes.txt", "../attributes.txt")
    names_file = next((name for name in candidates if (root / name).is_file()), None)
    if names_file is None:
        raise UserError(f"{root} lacks attributes/attributes.txt, the names of the attributes")
    ids, names = _named(root / names_file)
    if (root / _IMAGE_LABELS).is_file():
        return _image_attributes(root / _IMAGE_LABELS, position, ids, names), (names_file, _IMAGE_LABELS)
    if (root / _CLASS_LABELS).is_file():
        return _class_attributes(root / _CLASS_LABELS, labels, num_classes, names), (names_file, _CLASS_LABELS)
    raise UserError(f"{root} has neither {_IMAGE_LABELS} nor {_CLASS_LABELS}; unpack all of CUB-200-2011 there")


def _image_attributes(
    path: Path, position: dict[int, int], ids: dict[int, int], names: tuple[str, ...]
) -> BirdAttributes:
    """The published file has lines with a stray field before the seconds; the four that matter come first."""
    try:
        with open(path, "rb") as file:
            extra = sum(len(line.split()) > LABEL_FIELDS for line in file)
        table = np.loadtxt(path, dtype=np.int64, usecols=(0, 1, 2, 3), ndmin=2)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); restore it from the archive") from None
    rows, columns = _looked_up(path, table[:, 0], position, "image"), _looked_up(path, table[:, 1], ids, "attribute")
    wrong = ~(np.isin(table[:, 2], (0, 1)) & (table[:, 3] >= 1) & (table[:, 3] <= 4))
    if wrong.any():
        line = int(np.flatnonzero(wrong)[0]) + 1
        raise UserError(f"{path}, line {line}: present must be 0 or 1 and certainty 1 to 4; restore the file")
    present = np.full((len(position), len(names)), np.nan, dtype=np.float32)
    certainty = np.full(present.shape, NOT_GIVEN, dtype=np.int8)
    present[rows, columns], certainty[rows, columns] = table[:, 2], table[:, 3]
    unlabelled = int(np.isnan(present).sum())
    repeated = len(table) - (present.size - unlabelled)
    return BirdAttributes(names, present, certainty, "image", extra, repeated, unlabelled)


def _looked_up(path: Path, numbers: np.ndarray, known: dict[int, int], what: str) -> np.ndarray:
    values, inverse = np.unique(numbers, return_inverse=True)
    strange = [int(value) for value in values if int(value) not in known]
    if strange:
        raise UserError(f"{path} labels {len(strange)} unknown {what} ids, the first is {strange[0]}; restore the file")
    return np.array([known[int(value)] for value in values], dtype=np.int64)[inverse]


def _class_attributes(path: Path, labels: np.ndarray, num_classes: int, names: tuple[str, ...]) -> BirdAttributes:
    """Percentages per class, given to every image of the class as shares."""
    try:
        percent = np.loadtxt(path, ndmin=2)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); restore it from the archive") from None
    if percent.shape != (num_classes, len(names)):
        expected = f"{num_classes} rows of {len(names)}"
        raise UserError(f"{path} has {percent.shape[0]} rows of {percent.shape[1]} numbers, {expected} are expected")
    present = (percent / 100).astype(np.float32)[labels]
    return BirdAttributes(names, present, np.full(present.shape, NOT_GIVEN, dtype=np.int8), "class")
