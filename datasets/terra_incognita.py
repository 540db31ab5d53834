"""Build TerraIncognita: python datasets/terra_incognita.py --out DATA. What it is: terra_incognita.md."""

import sys

from sfmoe_dg.data.builders.camera_traps import ANNOTATIONS, IMAGES, prepare
from sfmoe_dg.data.builders.recipe import Source, from_catalog
from sfmoe_dg.data.builders.script import main

BUCKET = "https://storage.googleapis.com/public-datasets-lila/caltechcameratraps"
PAGE = "https://lila.science/datasets/caltech-camera-traps"

RECIPE = from_catalog(
    "TerraIncognita",
    Source(url=f"{BUCKET}/{IMAGES}", file=IMAGES, page=PAGE),
    Source(url=f"{BUCKET}/{ANNOTATIONS}", file=ANNOTATIONS, page=PAGE),
    prepare=prepare,
    known_totals={24330: "what the archives yield today; the copy of the DomainBed paper has 24788"},
)

if __name__ == "__main__":
    sys.exit(main(RECIPE, say=print))
