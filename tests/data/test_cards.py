"""Every data set's card: its headings, and the counts that the scripts check."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from builder_scripts import FOLDER, NAMES, recipe

from sfmoe_dg.data.catalog import CATALOG, facts

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
        expected = dict(zip(facts("SpawriousO2O_easy").domains, facts("SpawriousO2O_easy").counts, strict=True))
    if made.name in CATALOG and CATALOG[made.name].counts:
        assert tuple(expected.values()) == facts(made.name).counts
    assert card_counts(card) == expected
    assert re.search(rf"\b{made.num_classes}\b", sections(card)["Classes"])
    for source in made.sources:
        assert source.file in card.read_text(encoding="utf-8")
