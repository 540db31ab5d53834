"""Build Spawrious in DATA/spawrious224: python datasets/spawrious.py --out DATA. What it is: spawrious.md."""

import sys

from sfmoe_dg.data.builders.layouts import count_spawrious, one_folder
from sfmoe_dg.data.builders.recipe import Recipe, Source
from sfmoe_dg.data.builders.script import main
from sfmoe_dg.data.catalog import CATALOG, facts

ENTRIES = {name.removeprefix("Spawrious"): facts(name) for name in CATALOG if name.startswith("Spawrious")}
PUBLISHED = {
    f"{name} {domain}": count
    for name, entry in ENTRIES.items()
    for domain, count in zip(entry.domains, entry.counts, strict=True)
}

RECIPE = Recipe(
    name="Spawrious",
    folder="spawrious224",
    sources=(
        Source(
            url="https://www.dropbox.com/s/e40j553480h3f3s/spawrious224.tar.gz?dl=1",
            file="spawrious224.tar.gz",
            page="https://github.com/aengusl/spawrious",
        ),
    ),
    prepare=one_folder(("0", "1")),
    domains=tuple(PUBLISHED),
    published=PUBLISHED,
    num_classes=4,
    count=count_spawrious,
)

if __name__ == "__main__":
    sys.exit(main(RECIPE, say=print))
