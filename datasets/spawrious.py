"""Build Spawrious in DATA/spawrious224: python datasets/spawrious.py --out DATA. What it is: spawrious.md."""

import sys

from sfmoe_dg.data.builders.layouts import one_folder
from sfmoe_dg.data.builders.recipe import Source, from_catalog
from sfmoe_dg.data.builders.script import main

RECIPE = from_catalog(
    "SpawriousO2O_easy",
    Source(
        url="https://www.dropbox.com/s/e40j553480h3f3s/spawrious224.tar.gz?dl=1",
        file="spawrious224.tar.gz",
        page="https://github.com/aengusl/spawrious",
    ),
    prepare=one_folder(("0", "1")),
)

if __name__ == "__main__":
    sys.exit(main(RECIPE, say=print))
