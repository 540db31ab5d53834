"""Build CUB-200-2011 in DATA/CUB_200_2011: python datasets/cub_200_2011.py --out DATA. See cub_200_2011.md."""

import sys

from sfmoe_dg.data.builders.layouts import count_cub, cub_folder
from sfmoe_dg.data.builders.recipe import Recipe, Source
from sfmoe_dg.data.builders.script import main

RECIPE = Recipe(
    name="CUB-200-2011",
    folder="CUB_200_2011",
    sources=(
        Source(
            url="https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1",
            file="CUB_200_2011.tgz",
            page="https://data.caltech.edu/records/65de6-vp158",
            md5="97eceeb196236b17998738112f37df78",  # published with several readers of this data set
        ),
    ),
    prepare=cub_folder,
    domains=("train", "test"),
    published={"train": 5994, "test": 5794},
    num_classes=200,
    count=count_cub,
)

if __name__ == "__main__":
    sys.exit(main(RECIPE, say=print))
