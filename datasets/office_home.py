"""Build OfficeHome in DATA/office_home: python datasets/office_home.py --out DATA. What it is: office_home.md."""

import sys

from sfmoe_dg.data.builders.layouts import image_folders
from sfmoe_dg.data.builders.recipe import from_catalog, google_drive
from sfmoe_dg.data.builders.script import main
from sfmoe_dg.data.catalog import CATALOG

RECIPE = from_catalog(
    "OfficeHome",
    google_drive("1uY0pj7oFsjMxRwaD3Sxy0jgel0fsYXLC", "office_home.zip"),
    prepare=image_folders(
        CATALOG.load("OfficeHome").domains, aliases={"Real World": ("Real_World", "RealWorld", "Real")}
    ),
)

if __name__ == "__main__":
    sys.exit(main(RECIPE, say=print))
