"""docs/objectives.md has a row for every objective, equal to the attributes of its class."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_table_of_objectives_is_that_of_the_registry():
    spec = importlib.util.spec_from_file_location("site_objectives", ROOT / "docs" / "site_objectives.py")
    assert spec is not None
    assert spec.loader is not None
    site = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(site)
    written = site.PAGE.read_text(encoding="utf-8").partition(site.START)[2].partition(site.END)[0].splitlines()
    remedy = "run python docs/site_objectives.py"
    outdated = [line.split()[1] for line in site.table().splitlines() if line not in written]
    assert not outdated, f"docs/objectives.md has no present row of {', '.join(outdated)}: {remedy}"
    assert written == site.table().splitlines(), f"docs/objectives.md has rows of no objective: {remedy}"
