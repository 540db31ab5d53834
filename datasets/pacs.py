"""Build PACS in DATA/PACS: python datasets/pacs.py --out DATA. What it is: pacs.md."""

import sys

from sfmoe_dg.data.builders.recipe import from_catalog, google_drive
from sfmoe_dg.data.builders.script import main

RECIPE = from_catalog("PACS", google_drive("1JFr8f805nMUelQWWmfnJR3y4_SYoN5Pd", "PACS.zip"))

if __name__ == "__main__":
    sys.exit(main(RECIPE, say=print))
