"""Build VLCS in DATA/VLCS: python datasets/vlcs.py --out DATA. What it is: vlcs.md."""

import sys

from sfmoe_dg.data.builders.recipe import from_catalog, google_drive
from sfmoe_dg.data.builders.script import main

RECIPE = from_catalog("VLCS", google_drive("1skwblH1_okBwxWxmRsp9_qi15hyPpxg8", "VLCS.tar.gz"))

if __name__ == "__main__":
    sys.exit(main(RECIPE, say=print))
