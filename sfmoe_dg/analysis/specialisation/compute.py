"""Experts against classes and positions, and how much class, domain and position say about the expert.

Source: V-MoE, the routing analyses (selection frequency of experts per class; early layers show almost no class
structure, late layers serve few classes).

Legend: N images, S tokens, K choices, E experts, C classes.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.cluster import hierarchy

from sfmoe_dg.analysis.statistics.information import entropies
from sfmoe_dg.analysis.statistics.resampling import permutation_test
from sfmoe_dg.analysis.subject.observations import LayerRouting, Observations
from sfmoe_dg.foundation.registry import unknown
from sfmoe_dg.foundation.seeds import generator

MEASURES = ("frequency", "weight")
POSITION_SHUFFLES = 20


def class_table(observations: Observations, layer: str, measure: str = "frequency") -> pd.DataFrame:
    """How tokens of every class's images are routed.

    Args:
        measure: "frequency": the share of the class's tokens with the expert among their K choices; a column sums to K.
            "weight": the mean of the expert's combine weight over those tokens; 0 where it is not chosen or dropped.

    Returns:
        float64, rows are experts, columns are the names of the classes that have images. All tokens count, class
        tokens too.

    Raises:
        UserError: on another measure, or an unknown layer.
    """
    routing = observations.layer(layer)
    classes, label = np.unique(observations.label, return_inverse=True)
    means = _mean_per_expert(routing, measure, label[:, None])
    names = pd.Index([observations.class_names[c] for c in classes], name="class")
    return pd.DataFrame(means, index=pd.RangeIndex(routing.num_experts, name="expert"), columns=names)


def position_table(observations: Observations, layer: str, measure: str = "frequency") -> pd.DataFrame:
    """How the patches at every position of the grid are routed: as :func:`class_table`, columns are (row, column)."""
    routing = observations.patches(layer)
    rows, columns = observations.grid
    names = pd.MultiIndex.from_product([range(rows), range(columns)], names=["row", "column"])
    means = _mean_per_expert(routing, measure, np.arange(rows * columns)[None, :])
    return pd.DataFrame(means, index=pd.RangeIndex(routing.num_experts, name="expert"), columns=names)


def _mean_per_expert(routing: LayerRouting, measure: str, group: np.ndarray) -> np.ndarray:
    """Means over the tokens of each group, [E, groups]. ``group`` is broadcast to [N, S]; every group needs tokens."""
    if measure not in MEASURES:
        raise unknown("measure", measure, MEASURES)
    group = np.broadcast_to(group, routing.experts.shape[:2])
    cell = group[:, :, None] * routing.num_experts + routing.experts.astype(np.int64)
    weights = None if measure == "frequency" else routing.gates.reshape(-1).astype(np.float64)
    tokens = np.bincount(group.reshape(-1))
    mass = np.bincount(cell.reshape(-1), weights=weights, minlength=len(tokens) * routing.num_experts)
    return mass.reshape(len(tokens), routing.num_experts).T / tokens


def clustered_columns(table: pd.DataFrame) -> list[int]:
    """Positions of the columns in an order that puts similar columns side by side.

    Average linkage of the columns' Euclidean distances, leaves ordered so that neighbours differ least (Bar-Joseph et
    al., Fast Optimal Leaf Ordering, 2001).
    """
    if table.shape[1] < 3:
        return list(range(table.shape[1]))
    tree = hierarchy.linkage(table.to_numpy().T, method="average", metric="euclidean", optimal_ordering=True)
    return [int(leaf) for leaf in hierarchy.leaves_list(tree)]


def specialisation(observations: Observations, permutations: int = 200, seed: int = 0) -> pd.DataFrame:
    """How much class, domain and position say about a patch's first choice of expert, per layer.

    Rows are (layer, variable). Columns: ``mutual_information`` in bits; ``normalised``, 2·I / (H(variable) +
    H(expert)); ``explained``, I / H(expert); ``chance``, the mean of ``normalised`` when classes or domains are
    exchanged between images, or positions within an image; ``p``, the share of exchanges that reach ``normalised``.
    ``chance`` is above 0, most of all with many classes and few images. For position, at most
    :data:`POSITION_SHUFFLES` permutations are made. A variable with one value is left out.
    """
    rows = {}
    for layer in observations.layers:
        random = generator("specialisation", layer, seed)
        for variable, values in (("class", observations.label), ("domain", observations.domain)):
            if len(np.unique(values)) > 1:
                rows[layer, variable] = _by_image(observations, layer, values, permutations, random)
        rows[layer, "position"] = _by_position(observations, layer, min(permutations, POSITION_SHUFFLES), random)
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.set_axis(pd.MultiIndex.from_tuples(rows, names=["layer", "variable"]))


def _by_image(
    observations: Observations, layer: str, values: np.ndarray, permutations: int, random: np.random.Generator
) -> dict[str, float]:
    usage = observations.usage(layer)
    _, group = np.unique(values, return_inverse=True)
    count = int(group.max()) + 1

    def table(order: np.ndarray) -> np.ndarray:
        return np.stack([np.bincount(group, weights=column, minlength=count) for column in usage[order].T], axis=1)

    everywhere = np.zeros(len(group), dtype=np.int64)
    test = permutation_test(lambda order: entropies(table(order)).normalised, everywhere, permutations, random)
    return _row(table(np.arange(len(group))), float(test.null_mean), float(test.p))


def _by_position(
    observations: Observations, layer: str, permutations: int, random: np.random.Generator
) -> dict[str, float]:
    top, num_experts = observations.top_experts(layer), observations.layer(layer).num_experts

    def table(experts: np.ndarray) -> np.ndarray:
        return np.stack([(experts == expert).sum(axis=0) for expert in range(num_experts)], axis=1)

    observed = table(top)
    null = np.array([entropies(table(random.permuted(top, axis=1))).normalised for _ in range(permutations)])
    reached = (null >= entropies(observed).normalised - 1e-9).sum()
    return _row(
        observed, float(null.mean()) if permutations else float("nan"), float((1 + reached) / (1 + permutations))
    )


def _row(table: np.ndarray, chance: float, p: float) -> dict[str, float]:
    information = entropies(table)
    return {
        "mutual_information": float(information.mutual),
        "normalised": float(information.normalised),
        "explained": float(information.explained),
        "chance": chance,
        "p": p,
    }
