"""Which expert takes which part of the object (SF-MoE's histogram), per domain, and how much of it is chance."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sfmoe_dg.analysis.drawing.saving import Drawing
from sfmoe_dg.analysis.drawing.style import colour, heat_map, marker, new_figure, plain_axes
from sfmoe_dg.analysis.parts.compute import NEAREST, part_histogram, part_information, shares
from sfmoe_dg.analysis.statistics.baselines import shuffled, with_untrained_routers
from sfmoe_dg.analysis.subject.observations import Observations, observe
from sfmoe_dg.analysis.subject.subject import NotApplicable, Subject

SMALL_GRID = 4
"""A part takes at most 1 of this many patches: nine of sixteen would be more than half of the picture."""
PANELS = 3


def drawings(subject: Subject) -> Iterator[Drawing]:
    observed, layer = subject.observed, subject.main_layer
    if not observed.annotations.part_names:
        raise NotApplicable(f"{subject.run.dataset.name} has no part locations")
    nearest = patches_per_part(observed.grid)
    histogram = part_histogram(observed, layer, nearest)
    rule = matching_rule(observed.grid)
    yield Drawing(
        "parts",
        draw_histogram(histogram),
        pd.DataFrame({"patches": histogram.stack()}).reset_index(),
        f"Share of the patches near each part whose first choice is each expert, {subject.layer_title}: "
        f"{rule}; {subject.where(observed)}.",
    )
    information = pd.concat(
        {name: part_information(part_histogram(seen, layer, nearest)) for name, seen in routings(subject).items()},
        names=["routing"],
    )
    yield Drawing(
        "parts_information",
        draw_information(information),
        information.reset_index(),
        f"How much the part tells of the expert (normalised mutual information), {subject.layer_title}, "
        f"beside routing that means nothing; {rule}; {subject.where(observed)}.",
    )


def patches_per_part(grid: tuple[int, int]) -> int:
    """How many nearest patches each part is matched with: SF-MoE's 9, and fewer on small grids."""
    return min(NEAREST, max(1, grid[0] * grid[1] // SMALL_GRID))


def matching_rule(grid: tuple[int, int]) -> str:
    """For captions: which patches count for a part."""
    return f"each visible part counts for its {patches_per_part(grid)} nearest patches of {grid[0]}×{grid[1]}"


def routings(subject: Subject) -> Mapping[str, Observations]:
    """The trained routing and three baselines that carry no meaning, by name."""
    observed = subject.observed
    return {
        "trained": observed,
        "untrained router": observe(with_untrained_routers(subject.run), limit=subject.images),
        "by position only": shuffled(observed, "positions"),
        "shuffled": shuffled(observed, "totals"),
    }


def draw_histogram(histogram: pd.DataFrame) -> Figure:
    """One panel per domain, and all together; ``histogram`` as :func:`part_histogram` returns it."""
    of_rows = shares(histogram)
    domains = list(dict.fromkeys(histogram.index.get_level_values("domain")))
    parts = [part.replace("_", " ") for part in of_rows.loc[domains[0]].index]
    num_experts, high = histogram.shape[1], float(np.nanmax(of_rows.to_numpy()))
    rows, columns = math.ceil(len(domains) / PANELS), min(PANELS, len(domains))
    figure, axes = new_figure(rows, columns, 1.0 + 0.36 * num_experts, 1.1 + 0.3 * len(parts), sharey=True)
    panels = axes.ravel().tolist()
    for axis in panels[len(domains) :]:
        axis.set_visible(False)
    for axis, domain in zip(panels, domains, strict=False):
        image = heat_map(axis, of_rows.loc[domain].to_numpy(), parts, list(histogram.columns), limits=(0, high))
        axis.set_title(domain, fontsize=10)
        axis.set_xlabel("expert")
    for axis in axes[:, 0]:
        axis.set_ylabel("part")
    figure.colorbar(image, ax=panels, label="share of the part's patches")
    return figure


def draw_information(information: pd.DataFrame) -> Figure:
    """Normalised mutual information by domain, one marker per routing; indexed by (routing, domain)."""
    figure, axes = new_figure(1, 1, 5.4, 3.2)
    domains = list(dict.fromkeys(information.index.get_level_values("domain")))
    for place, (routing, rows) in enumerate(information.groupby(level="routing", sort=False)):
        values = rows.droplevel("routing").loc[domains, "normalised"]
        axes[0, 0].plot(
            domains, values, marker=marker(place), color=colour(place), linestyle="none", markersize=8, label=routing
        )
    plain_axes(axes[0, 0], "", "normalised mutual information\nof part and expert (0 to 1)")
    axes[0, 0].margins(x=0.1, y=0.1)
    axes[0, 0].set_ylim(bottom=0)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure
