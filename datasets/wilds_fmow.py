"""Build FMoW-WILDS in DATA/fmow_v1.1: python datasets/wilds_fmow.py --out DATA. What it is: wilds_fmow.md."""

import sys

from sfmoe_dg.data.builders.layouts import one_folder
from sfmoe_dg.data.builders.recipe import Source, from_catalog
from sfmoe_dg.data.builders.script import main

RECIPE = from_catalog(
    "WILDSFMoW",
    Source(
        url="https://worksheets.codalab.org/rest/bundles/0xaec91eb7c9d548ebb15e1b5e60f966ab/contents/blob/",
        file="fmow_v1.1.tar.gz",
        page="https://wilds.stanford.edu/downloads",
    ),
    prepare=one_folder(("rgb_metadata.csv", "country_code_mapping.csv", "images"), release="RELEASE_v1.1.txt"),
)

if __name__ == "__main__":
    sys.exit(main(RECIPE, say=print))
