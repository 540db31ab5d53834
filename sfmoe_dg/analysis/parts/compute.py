"""Which expert takes which part: SF-MoE's two-dimensional histogram of part locations and experts.

Source: SF-MoE, the analysis of attributes and experts. Every part location is matched with its 9 nearest patches, and
every patch counts for its first choice of expert.

Legend: N images, P parts, S patches, E experts.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from sfmoe_dg.analysis.expert_maps.compute import parts_in_patches
from sfmoe_dg.analysis.statistics.information import entropies
from sfmoe_dg.analysis.subject.observations import Observations
from sfmoe_dg.foundation.errors import UserError

BACKGROUND = "background"
TOGETHER = "together"
NEAREST = 9


def nearest_patches(parts: np.ndarray, grid: tuple[int, int], count: int = NEAREST) -> np.ndarray:
    """The patches whose centres lie nearest to each part, int64 [N, P, count]; all -1 where a part is not visible.

    Args:
        parts: [N, P, 3], x and y as shares of the picture, and visibility.
        grid: rows and columns; patch ``row · columns + column``.
        count: 9, or fewer on small grids. Of equally near patches, the first in raster order is taken.
    """
    rows, columns = grid
    row, column = np.divmod(np.arange(rows * columns), columns)
    x, y, _ = np.split(parts_in_patches(parts, grid), 3, axis=-1)
    # Rounded, so that equal distances compare as equal.
    distance = np.round((x - column) ** 2 + (y - row) ** 2, 6)
    order = np.argsort(distance, axis=-1, kind="stable")[..., :count]
    return np.where(parts[..., 2:] > 0, order, -1)


def part_patches(observations: Observations, count: int = NEAREST) -> np.ndarray:
    """Which patches belong to which part, bool [N, P + 1, S]. The last row is the background: patches of no part.

    Raises:
        UserError: if the images have no part locations, or the grid has fewer than ``count`` patches.
    """
    notes, grid = observations.annotations, observations.grid
    num_patches = grid[0] * grid[1]
    if not notes.part_names:
        raise UserError("these images have no part locations; StyledDigits and CUB-DG have")
    if not 0 < count <= num_patches:
        raise UserError(f"{count} nearest patches cannot be taken from a grid of {grid[0]} × {grid[1]}")
    near = nearest_patches(notes.parts, grid, count)
    belongs = np.zeros((*near.shape[:2], num_patches + 1), dtype=bool)
    np.put_along_axis(belongs, near, True, axis=-1)  # -1 is the extra place at the end
    belongs = belongs[..., :num_patches]
    return np.concatenate([belongs, ~belongs.any(axis=1, keepdims=True)], axis=1)


def part_histogram(observations: Observations, layer: str, count: int = NEAREST) -> pd.DataFrame:
    """How many patches near each part chose each expert first.

    A patch near several parts counts for each of them; a patch near no part counts as background.

    Returns:
        Counts, int64. Rows are (domain, part): every domain that has images, then :data:`TOGETHER`; every part, then
        :data:`BACKGROUND`. Columns are the experts 0 to E − 1.

    Raises:
        UserError: see :func:`part_patches`, and on an unknown layer.
    """
    belongs = part_patches(observations, count)
    top, num_experts = observations.top_experts(layer), observations.layer(layer).num_experts
    per_image = np.stack([(belongs & (top == expert)[:, None]).sum(-1) for expert in range(num_experts)], axis=-1)
    domains = observations.present_domains()
    groups = {observations.domain_names[env]: per_image[observations.domain == env].sum(axis=0) for env in domains}
    groups[TOGETHER] = per_image.sum(axis=0)
    parts = (*observations.annotations.part_names, BACKGROUND)
    index = pd.MultiIndex.from_product([groups, parts], names=["domain", "part"])
    columns = pd.RangeIndex(num_experts, name="expert")
    return pd.DataFrame(np.concatenate(list(groups.values())), index=index, columns=columns, dtype=np.int64)


def shares(histogram: pd.DataFrame) -> pd.DataFrame:
    """Every row of a histogram divided by its sum; NaN where a part was never visible."""
    return histogram.div(histogram.sum(axis=1).replace(0, np.nan), axis=0)


def part_information(histogram: pd.DataFrame) -> pd.DataFrame:
    """How much the part says about the expert, one row per domain.

    Columns: ``patches``; ``mutual_information`` in bits; ``normalised``, 2·I / (H(part) + H(expert)); ``explained``,
    I / H(expert). Parts have usual places, so routing by position alone also scores above 0. Compare with
    :func:`sfmoe_dg.analysis.statistics.baselines.shuffled` routing that keeps "positions".
    """
    rows = {}
    for domain, table in histogram.groupby(level="domain", sort=False):
        information = entropies(table.to_numpy())
        rows[domain] = {
            "patches": int(table.to_numpy().sum()),
            "mutual_information": float(information.mutual),
            "normalised": float(information.normalised),
            "explained": float(information.explained),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("domain")


def part_overlap(histogram: pd.DataFrame, domain: str = TOGETHER) -> pd.DataFrame:
    """Overlap of two parts' shares of experts: Σ_e min(share, share), 1 for equal shares, 0 for disjoint experts.

    It measures what SF-MoE observes: left and right wing share an expert.

    Raises:
        UserError: if the histogram has no such domain.
    """
    known = list(dict.fromkeys(histogram.index.get_level_values("domain")))
    if domain not in known:
        raise UserError(f"the histogram has no domain {domain!r}; it has {', '.join(known)}")
    rows = shares(histogram).loc[domain]
    values = rows.to_numpy()
    overlap = np.minimum(values[:, None], values[None, :]).sum(axis=-1)
    return pd.DataFrame(overlap, index=rows.index, columns=rows.index.rename("other part"))
