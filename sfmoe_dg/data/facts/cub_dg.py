"""CUB-DG: Caltech-UCSD birds in four styles."""

from __future__ import annotations

from sfmoe_dg.data.facts.dataset_facts import PHOTO, RANDOM_OR_IDENTITY
from sfmoe_dg.data.facts.image_folders import image_folder

_BIRD_STYLES = ("Candy", "Mosaic", "Natural", "Udnie")

CUB_DG = image_folder(
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
        PHOTO,
        ("painted", "colour", "background", "synthetic"),
    ),
    reader="sfmoe_dg.data.cub_dg.reader:read",
)
