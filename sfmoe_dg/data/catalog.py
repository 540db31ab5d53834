"""Facts of every data set that are known without opening it; this file does not import torch.

Names, column titles, step counts and evaluation intervals are DomainBed's (``domainbed/datasets.py``), in its order;
our own data sets follow.

Another package adds one through an entry point in the group ``sfmoe_dg.datasets``, whose name is the data set's and
whose object is its :class:`DatasetFacts`.
"""

from __future__ import annotations

from dataclasses import dataclass

from sfmoe_dg.foundation.registry import Registry

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""torchvision's, so that the same files count as images; case does not matter."""

RANDOM_ONLY = ("random",)
RANDOM_OR_IDENTITY = ("random", "identity")

DOMAIN_ATTRIBUTES = (
    "photographic",  # taken by a camera
    "drawn",  # lines or strokes of a pen, pencil or piece of chalk
    "painted",  # areas filled by brush or in a painter's manner
    "colour",  # colour carries information; not black and white
    "outline",  # shapes are given by their contours, with little shading
    "texture",  # surfaces have a visible structure
    "background",  # objects stand in a scene, not on an empty ground
    "synthetic",  # rendered or filtered by a computer
)
"""What a hand-written description of a domain may say, one bit each, in the order that models see (routing level
"attribute" of conditional mixtures of experts). About pictures in general; nothing here tells classes apart."""

_PHOTO = ("photographic", "colour", "texture", "background")
_DRAWING = ("drawn", "outline")


@dataclass(frozen=True)
class DatasetFacts:
    """What is known about a data set before it is opened.

    Attributes:
        name: as given to ``--dataset``.
        folder: where it lies under ``data_dir``; empty if it has no folder of its own.
        domains: the domains' names in order; for image folders the sorted names of the domain folders. Empty where
            only the data can tell (``ImageFolder``).
        labels: the domains' column titles, as DomainBed prints them.
        num_classes: 0 where only the data can tell.
        input_shape: channels, height and width of what the model sees.
        checkpoint_freq: steps between evaluations.
        reader: ``'module:attribute'`` of the function that opens it, called by ``sfmoe_dg.data.build.build_dataset``.
        steps: length of a training run.
        counts: images per domain, in the order of ``domains``, in the complete published copy. Empty if not known;
            a copy with other counts is not an error.
        needs_data_dir: False for data that are generated or come with a dependency.
        splits: the split policies that make sense; "identity" needs to know which images show the same object.
        domain_attributes: names of :data:`DOMAIN_ATTRIBUTES` that describe each domain, in the order of ``domains``;
            empty if nobody has described them. Domains may be described alike.
        crops: whether augmentation for training cuts a part out of the image.

    Examples:
        >>> from sfmoe_dg import CATALOG, DatasetFacts
        >>> facts = CATALOG.load("PACS")
        >>> isinstance(facts, DatasetFacts), facts.num_classes, facts.labels
        (True, 7, ('A', 'C', 'P', 'S'))
    """

    name: str
    folder: str
    domains: tuple[str, ...]
    labels: tuple[str, ...]
    num_classes: int
    input_shape: tuple[int, int, int]
    checkpoint_freq: int
    reader: str
    steps: int = 5001
    counts: tuple[int, ...] = ()
    needs_data_dir: bool = True
    splits: tuple[str, ...] = RANDOM_ONLY
    domain_attributes: tuple[tuple[str, ...], ...] = ()
    crops: bool = True


def _complaint(name: str, found: object) -> str:
    if not isinstance(found, DatasetFacts):
        return f"a {type(found).__name__}, not a DatasetFacts"
    return "" if found.name == name else f"the DatasetFacts of {found.name!r}, which must have the same name"


CATALOG: Registry[DatasetFacts] = Registry("data set", "sfmoe_dg.datasets", _complaint)
"""Data sets by name. ``CATALOG.register(name, facts)`` adds one.

Examples:
    >>> from dataclasses import replace
    >>> from sfmoe_dg import CATALOG
    >>> facts = replace(CATALOG.load("PACS"), name="PACSAgain", steps=100)
    >>> CATALOG.register("PACSAgain", facts)
    >>> "PACSAgain" in CATALOG
    True
    >>> del CATALOG["PACSAgain"]
"""


def facts(name: str) -> DatasetFacts:
    """The facts of one data set.

    Raises:
        UserError: if there is no such data set; the nearest known names are listed.
    """
    return CATALOG.load(name)


def _add(entry: DatasetFacts) -> None:
    CATALOG.register(entry.name, entry)


def _debug(name: str, size: int) -> DatasetFacts:
    return DatasetFacts(
        name=name,
        folder="",
        domains=("0", "1", "2"),
        labels=("0", "1", "2"),
        num_classes=2,
        input_shape=(3, size, size),
        checkpoint_freq=100,
        reader="sfmoe_dg.data.sets.debug:read",
        counts=(16, 16, 16),
        needs_data_dir=False,
    )


def _image_folder(
    name: str,
    folder: str,
    domains: tuple[str, ...],
    labels: tuple[str, ...],
    num_classes: int,
    checkpoint_freq: int = 300,
    counts: tuple[int, ...] = (),
    splits: tuple[str, ...] = RANDOM_ONLY,
    domain_attributes: tuple[tuple[str, ...], ...] = (),
    reader: str = "sfmoe_dg.data.sets.image_folder:read",
) -> DatasetFacts:
    return DatasetFacts(
        name=name,
        folder=folder,
        domains=domains,
        labels=labels,
        num_classes=num_classes,
        input_shape=(3, 224, 224),
        checkpoint_freq=checkpoint_freq,
        reader=reader,
        counts=counts,
        splits=splits,
        domain_attributes=domain_attributes,
    )


def _wilds(
    name: str,
    folder: str,
    domains: tuple[str, ...],
    num_classes: int,
    reader: str,
    look: tuple[str, ...],
    counts: tuple[int, ...] = (),
) -> DatasetFacts:
    return DatasetFacts(
        name=name,
        folder=folder,
        domains=domains,
        labels=domains,
        num_classes=num_classes,
        input_shape=(3, 224, 224),
        checkpoint_freq=100,
        reader=f"sfmoe_dg.data.sets.wilds:{reader}",
        counts=counts,
        domain_attributes=(look,) * len(domains),
    )


def _spawrious(name: str) -> DatasetFacts:
    domains = ("Test", "SC_group_1", "SC_group_2")
    return DatasetFacts(
        name=name,
        folder="spawrious224",
        domains=domains,
        labels=domains,
        num_classes=4,
        input_shape=(3, 224, 224),
        checkpoint_freq=100,
        reader="sfmoe_dg.data.sets.spawrious:read",
        counts=(25344, 12672, 12672),  # 8, 4 and 4 × 3168
        domain_attributes=((*_PHOTO, "synthetic"),) * 3,  # made by a text-to-image model
        crops=False,
    )


_COLORS = ("+90%", "+80%", "-90%")
_ANGLES = ("0", "15", "30", "45", "60", "75")
_CARS = ("aclass", "escape", "hilux", "i3", "lexus", "tesla", "tiguan", "tucson", "x5", "zoe")
_HOSPITALS = tuple(f"hospital_{i}" for i in range(5))
_REGIONS = tuple(f"region_{i}" for i in range(6))
_BIRD_STYLES = ("Candy", "Mosaic", "Natural", "Udnie")
_DIGIT_STYLES = ("chalk", "ink", "mosaic", "neon")

_add(_debug("Debug28", 28))
_add(_debug("Debug224", 224))
_add(
    DatasetFacts(
        name="ColoredMNIST",
        folder="MNIST",
        domains=_COLORS,
        labels=_COLORS,
        num_classes=2,
        input_shape=(2, 28, 28),
        checkpoint_freq=100,
        reader="sfmoe_dg.data.sets.mnist:read_colored",
        counts=(23334, 23333, 23333),
        domain_attributes=(("drawn", "colour"),) * 3,
    )
)
_add(
    DatasetFacts(
        name="RotatedMNIST",
        folder="MNIST",
        domains=_ANGLES,
        labels=_ANGLES,
        num_classes=10,
        input_shape=(1, 28, 28),
        checkpoint_freq=100,
        reader="sfmoe_dg.data.sets.mnist:read_rotated",
        counts=(11667, 11667, 11667, 11667, 11666, 11666),
        domain_attributes=(("drawn",),) * 6,
    )
)
_add(
    _image_folder(
        "VLCS",
        "VLCS",
        domains=("Caltech101", "LabelMe", "SUN09", "VOC2007"),
        labels=("C", "L", "S", "V"),
        num_classes=5,
        counts=(1415, 2656, 3282, 3376),
        domain_attributes=(("photographic", "colour", "texture"), _PHOTO, _PHOTO, _PHOTO),
    )
)
_add(
    _image_folder(
        "PACS",
        "PACS",
        domains=("art_painting", "cartoon", "photo", "sketch"),
        labels=("A", "C", "P", "S"),
        num_classes=7,
        counts=(2048, 2344, 1670, 3929),
        domain_attributes=(
            ("painted", "colour", "texture", "background"),
            (*_DRAWING, "colour"),
            _PHOTO,
            _DRAWING,
        ),
    )
)
_add(
    _image_folder(
        "OfficeHome",
        "office_home",
        domains=("Art", "Clipart", "Product", "Real World"),
        labels=("A", "C", "P", "R"),
        num_classes=65,
        counts=(2427, 4365, 4439, 4357),
        domain_attributes=(
            ("drawn", "painted", "colour", "texture", "background"),
            (*_DRAWING, "colour", "synthetic"),
            ("photographic", "colour", "texture"),
            _PHOTO,
        ),
    )
)
_add(
    _image_folder(
        "TerraIncognita",
        "terra_incognita",
        domains=("location_100", "location_38", "location_43", "location_46"),
        labels=("L100", "L38", "L43", "L46"),
        num_classes=10,
        counts=(4879, 9767, 4020, 6122),
        domain_attributes=(_PHOTO,) * 4,
    )
)
_add(
    _image_folder(
        "DomainNet",
        "domain_net",
        domains=("clipart", "infograph", "painting", "quickdraw", "real", "sketch"),
        labels=("clip", "info", "paint", "quick", "real", "sketch"),
        num_classes=345,
        checkpoint_freq=1000,
        counts=(48129, 51605, 72266, 172500, 172947, 69128),
        domain_attributes=(
            (*_DRAWING, "colour", "synthetic"),
            (*_DRAWING, "colour", "background", "synthetic"),
            ("painted", "colour", "texture", "background"),
            _DRAWING,
            _PHOTO,
            (*_DRAWING, "texture"),
        ),
    )
)
_add(
    _image_folder(
        "SVIRO",
        "sviro",
        domains=_CARS,
        labels=_CARS,
        num_classes=7,
        domain_attributes=(("texture", "background", "synthetic"),) * 10,
    )
)
_add(
    _wilds(
        "WILDSCamelyon",
        "camelyon17_v1.0",
        domains=_HOSPITALS,
        num_classes=2,
        reader="read_camelyon",
        look=("photographic", "colour", "texture"),
        counts=(59436, 34904, 85054, 129838, 146722),
    )
)
_add(_wilds("WILDSFMoW", "fmow_v1.1", domains=_REGIONS, num_classes=62, reader="read_fmow", look=_PHOTO))
for _name in ("O2O_easy", "O2O_medium", "O2O_hard", "M2M_easy", "M2M_medium", "M2M_hard"):
    _add(_spawrious(f"Spawrious{_name}"))
_add(
    _image_folder(
        "CUBDG",
        "CUB_DG",
        domains=_BIRD_STYLES,
        labels=_BIRD_STYLES,
        num_classes=200,
        counts=(11788, 11788, 11788, 11788),
        splits=RANDOM_OR_IDENTITY,
        domain_attributes=(
            ("painted", "colour", "texture", "background", "synthetic"),
            ("painted", "colour", "outline", "texture", "background", "synthetic"),
            _PHOTO,
            ("painted", "colour", "background", "synthetic"),
        ),
        reader="sfmoe_dg.data.cub_dg.reader:read",
    )
)
_add(
    DatasetFacts(
        name="StyledDigits",
        folder="",
        domains=_DIGIT_STYLES,
        labels=_DIGIT_STYLES,
        num_classes=10,
        input_shape=(3, 32, 32),
        checkpoint_freq=100,
        steps=1001,  # converged by then
        reader="sfmoe_dg.data.sets.styled_digits:read",
        counts=(1797, 1797, 1797, 1797),
        needs_data_dir=False,
        splits=RANDOM_OR_IDENTITY,
        domain_attributes=(("drawn", "texture"), ("drawn", "colour"), ("colour", "texture"), ("colour", "outline")),
    )
)
_add(_image_folder("ImageFolder", "", domains=(), labels=(), num_classes=0))
