"""Build SVIRO in DATA/sviro: python datasets/sviro.py --out DATA. What it is: sviro.md."""

import sys

from sfmoe_dg.data.builders.recipe import Source, from_catalog
from sfmoe_dg.data.builders.script import main

RECIPE = from_catalog(
    "SVIRO",
    Source(
        url="https://sviro.kl.dfki.de/?wpdmdl=1731",
        file="sviro_grayscale_rectangle_classification.zip",
        page="https://sviro.kl.dfki.de",
    ),
)

if __name__ == "__main__":
    sys.exit(main(RECIPE, say=print))
