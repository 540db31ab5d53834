"""Build DomainNet in DATA/domain_net: python datasets/domain_net.py --out DATA. What it is: domain_net.md."""

import sys

from sfmoe_dg.data.builders.duplicates import DUPLICATES_FILE, prepare
from sfmoe_dg.data.builders.recipe import Source, from_catalog
from sfmoe_dg.data.builders.script import main

SERVER = "http://csr.bu.edu/ftp/visda/2019/multi-source"
PAGE = "http://ai.bu.edu/M3SDA/"
PATHS = ("groundtruth/clipart", "infograph", "groundtruth/painting", "quickdraw", "real", "sketch")

RECIPE = from_catalog(
    "DomainNet",
    *(Source(url=f"{SERVER}/{path}.zip", file=f"{path.rpartition('/')[2]}.zip", page=PAGE) for path in PATHS),
    Source(
        url=f"https://raw.githubusercontent.com/facebookresearch/DomainBed/main/domainbed/misc/{DUPLICATES_FILE}",
        file=DUPLICATES_FILE,
        page="https://github.com/facebookresearch/DomainBed/tree/main/domainbed/misc",
        sha256="a52b4ab70203f4f3df381077694dba3e33ff44c26407e1c5faca76919c702770",  # as of DomainBed's b93c22a
        extract=False,
        option="duplicates",
    ),
    prepare=prepare,
)

if __name__ == "__main__":
    sys.exit(main(RECIPE, say=print))
