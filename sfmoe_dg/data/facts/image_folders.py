"""Data sets whose pictures lie in folders ``domain/class``."""

from __future__ import annotations

from sfmoe_dg.data.facts.dataset_facts import COUNT_FOLDERS, DRAWING, PHOTO, RANDOM_ONLY, DatasetFacts

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""torchvision's, so that the same files count as images; case does not matter."""


def image_folder(
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
        counter=COUNT_FOLDERS,
    )


_CARS = ("aclass", "escape", "hilux", "i3", "lexus", "tesla", "tiguan", "tucson", "x5", "zoe")

VLCS = image_folder(
    "VLCS",
    "VLCS",
    domains=("Caltech101", "LabelMe", "SUN09", "VOC2007"),
    labels=("C", "L", "S", "V"),
    num_classes=5,
    counts=(1415, 2656, 3282, 3376),
    domain_attributes=(("photographic", "colour", "texture"), PHOTO, PHOTO, PHOTO),
)
PACS = image_folder(
    "PACS",
    "PACS",
    domains=("art_painting", "cartoon", "photo", "sketch"),
    labels=("A", "C", "P", "S"),
    num_classes=7,
    counts=(2048, 2344, 1670, 3929),
    domain_attributes=(
        ("painted", "colour", "texture", "background"),
        (*DRAWING, "colour"),
        PHOTO,
        DRAWING,
    ),
)
OFFICE_HOME = image_folder(
    "OfficeHome",
    "office_home",
    domains=("Art", "Clipart", "Product", "Real World"),
    labels=("A", "C", "P", "R"),
    num_classes=65,
    counts=(2427, 4365, 4439, 4357),
    domain_attributes=(
        ("drawn", "painted", "colour", "texture", "background"),
        (*DRAWING, "colour", "synthetic"),
        ("photographic", "colour", "texture"),
        PHOTO,
    ),
)
TERRA_INCOGNITA = image_folder(
    "TerraIncognita",
    "terra_incognita",
    domains=("location_100", "location_38", "location_43", "location_46"),
    labels=("L100", "L38", "L43", "L46"),
    num_classes=10,
    counts=(4879, 9767, 4020, 6122),
    domain_attributes=(PHOTO,) * 4,
)
DOMAIN_NET = image_folder(
    "DomainNet",
    "domain_net",
    domains=("clipart", "infograph", "painting", "quickdraw", "real", "sketch"),
    labels=("clip", "info", "paint", "quick", "real", "sketch"),
    num_classes=345,
    checkpoint_freq=1000,
    counts=(48129, 51605, 72266, 172500, 172947, 69128),
    domain_attributes=(
        (*DRAWING, "colour", "synthetic"),
        (*DRAWING, "colour", "background", "synthetic"),
        ("painted", "colour", "texture", "background"),
        DRAWING,
        PHOTO,
        (*DRAWING, "texture"),
    ),
)
SVIRO = image_folder(
    "SVIRO",
    "sviro",
    domains=_CARS,
    labels=_CARS,
    num_classes=7,
    domain_attributes=(("texture", "background", "synthetic"),) * 10,
)
IMAGE_FOLDER = image_folder("ImageFolder", "", domains=(), labels=(), num_classes=0)
"""The user's own pictures."""
