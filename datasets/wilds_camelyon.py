"""Build Camelyon17-WILDS: python datasets/wilds_camelyon.py --out DATA. What it is: wilds_camelyon.md."""

import sys

from sfmoe_dg.data.builders.layouts import one_folder
from sfmoe_dg.data.builders.recipe import Source, from_catalog
from sfmoe_dg.data.builders.script import main

RECIPE = from_catalog(
    "WILDSCamelyon",
    Source(
        url="https://worksheets.codalab.org/rest/bundles/0xe45e15f39fb54e9d9e919556af67aabe/contents/blob/",
        file="camelyon17_v1.0.tar.gz",
        page="https://wilds.stanford.edu/downloads",
    ),
    prepare=one_folder(("metadata.csv", "patches"), release="RELEASE_v1.0.txt"),
)

if __name__ == "__main__":
    sys.exit(main(RECIPE, say=print))
