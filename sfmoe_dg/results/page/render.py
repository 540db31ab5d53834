"""The report as one HTML file that loads nothing: data as JSON in a script element, images as data URIs."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from sfmoe_dg.results.page.cost import cost_section
from sfmoe_dg.results.page.page import Section, render_page
from sfmoe_dg.results.read import LoadedRecords

TITLE = "Domain generalization report"

_EXPLORER = """<section id="explorer">
<h2>Explorer</h2>
<p>What a model does with an image. Choose with the lists, or with the arrow keys: on a focused picture they move the
patch, on a list the choice. Runs, images and domains stay chosen while the others change.</p>
<noscript><p>The explorer needs JavaScript; all the rest of this page does not.</p></noscript>
<form class="controls" aria-label="What to look at">
<label>Run <select id="x-run"></select></label>
<label>Image <select id="x-image"></select></label>
<span class="steps"><button type="button" id="x-previous" aria-label="previous image">◀</button>
<button type="button" id="x-next" aria-label="next image">▶</button></span>
<label>Domain <select id="x-domain"></select></label>
<label>Layer <select id="x-layer"></select></label>
<label>Block <select id="x-block"></select></label>
<label>Head <select id="x-head"></select></label>
</form>
<p id="x-summary" aria-live="polite"></p>
<div class="pictures">
<figure><canvas id="x-picture" tabindex="0" role="img"></canvas><figcaption>Picture, visible parts</figcaption></figure>
<figure><canvas id="x-map" tabindex="0" role="img"></canvas><figcaption>First choice of expert</figcaption></figure>
<figure><canvas id="x-attention" tabindex="0" role="img"></canvas>
<figcaption>Attention of the class token (bright: most of this head)</figcaption></figure>
</div>
<div class="details">
<div><h3 id="x-patch"></h3><ol id="x-gates" class="bars" aria-live="polite"></ol></div>
<div><h3>Patches of each expert</h3><ol id="x-usage" class="bars"></ol></div>
<div><h3>Attributes of the object</h3><ul id="x-attributes" class="chips"></ul>
<h3>Parts</h3><ul id="x-parts" class="chips"></ul></div>
</div>
<h3>The same layer in every domain</h3>
<div id="x-strip" class="strip"></div>
</section>"""


def render_report(
    loaded: LoadedRecords, root: Path, explored: dict[str, Any] | None, title: str = TITLE, notes: tuple[str, ...] = ()
) -> str:
    """The page as one string.

    Args:
        root: the folder of the runs, for what their ``run.json`` tells.
        explored: what :func:`sfmoe_dg.analysis.explorer.data.explore` found; None: without the explorer.
        notes: sentences on what was left out, shown with the problems of the records.
    """
    sections = [cost_section(loaded, root)]
    if explored is not None:
        sections.append(explorer_section(explored))
    told = LoadedRecords(loaded.records, [*loaded.problems, *notes], loaded.domains)
    return render_page(told, title, sections=sections)


def explorer_section(explored: dict[str, Any]) -> Section:
    """The explorer with its data."""
    folder = resources.files("sfmoe_dg.analysis.explorer")
    data = f'<script type="application/json" id="explorer-data">{embedded_json(explored)}</script>'
    return Section(
        html=f"{_EXPLORER}\n{data}",
        style=(folder / "explorer.css").read_text(encoding="utf-8"),
        script=(folder / "explorer.js").read_text(encoding="utf-8"),
    )


def embedded_json(value: Any) -> str:
    """JSON that may stand in a script element: without a ``<``, nothing in it can end the element or open another."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
