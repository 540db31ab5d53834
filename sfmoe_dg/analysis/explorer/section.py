"""The explorer as a section of the HTML report: its markup, style and script, with the data as JSON beside them."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from sfmoe_dg.results.page.page import Section


def explorer_section(explored: dict[str, Any]) -> Section:
    """The section for what :func:`sfmoe_dg.analysis.explorer.data.explore` computed."""
    folder = resources.files("sfmoe_dg.analysis.explorer")
    markup, style, script = (
        (folder / f"explorer.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js")
    )
    data = f'<script type="application/json" id="explorer-data">{embedded_json(explored)}</script>'
    return Section(markup + data, style, script)


def embedded_json(value: Any) -> str:
    """JSON for a script element. It holds no ``<``, so no text in it can end the element or open another one."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
