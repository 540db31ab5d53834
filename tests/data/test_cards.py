"""Every data set's card: its headings, and the counts that the scripts check."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from builder_scripts import FOLDER, NAMES, recipe

from sfmoe_dg.data.catalog import CATALOG, DatasetFacts

HEADINGS = ["Source", "Licence", "Counts", "Classes", "Known faults", "Preparation", "How it was checked"]


def sections(path: Path) -> dict[str, str]:
    parts = re.split(r"^## (.+)\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def card_counts(path: Path) -> dict[str, int]:
    """The rows ``| domain | 1,234 |`` of the section on counts, without the total."""
    rows = re.findall(r"^\| ([^|]+?) \| ([\d,]+) \|", sections(path)["Counts"], flags=re.MULTILINE)
    return {name: int(count.replace(",", "")) for name, count in rows if name != "total"}


def test_every_script_has_a_card() -> None:
    assert {path.stem for path in FOLDER.glob("*.md")} == {path.stem for path in FOLDER.glob("*.py")}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.md")), ids=lambda path: path.stem)
def test_card_headings(path: Path) -> None:
    assert list(sections(path)) == HEADINGS
    assert all(text.strip() for text in sections(path).values())


@pytest.mark.parametrize("name", NAMES)
def test_card_counts_are_those_that_are_checked(name: str) -> None:
    made, card = recipe(name), FOLDER / f"{name}.md"
    expected = dict(made.published)
    if name == "spawrious":  # the same three numbers for all six
        one = CATALOG.load("SpawriousO2O_easy")
        expected = dict(zip(one.domains, one.counts, strict=True))
    if made.name in CATALOG and CATALOG[made.name].counts:
        assert tuple(expected.values()) == CATALOG.load(made.name).counts
    assert card_counts(card) == expected
    assert re.search(rf"\b{made.num_classes}\b", sections(card)["Classes"])
    for source in made.sources:
        assert source.file in card.read_text(encoding="utf-8")


def test_the_page_on_data_sets_shows_the_catalog_and_links_every_card() -> None:
    page = (FOLDER.parent / "docs/datasets.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `\w+` \|.*", page, flags=re.MULTILINE)
    assert rows == [row(CATALOG.load(name)) for name in CATALOG.registered]
    assert set(re.findall(r"\(\.\./datasets/(\w+)\.md\)", page)) == {path.stem for path in FOLDER.glob("*.md")}


def row(facts: DatasetFacts) -> str:
    cells = [
        f"`{facts.name}`",
        ", ".join(facts.domains) or "your folders",
        str(facts.num_classes or "yours"),
        f"{sum(facts.counts):,}" if facts.counts else "–",
        f"`{facts.folder}`" if facts.folder else "–",
    ]
    return f"| {' | '.join(cells)} |"
