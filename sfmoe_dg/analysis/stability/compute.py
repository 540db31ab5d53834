"""Whether an expert goes with the same attributes in another domain, or in another run.

An expert's **profile** in a domain is its point-biserial correlation with every attribute there. Profiles are compared
by Spearman's rank correlation over attributes. An attribute counts only if some objects of both domains have it and
some have it not. An expert whose usage does not vary has a profile of zeros.

Legend: A attributes, E experts, G domains, R permutations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from math import factorial

import numpy as np
import pandas as pd
from scipy import stats
from scipy.optimize import linear_sum_assignment

from sfmoe_dg.analysis.attributes.compute import Units, units_of
from sfmoe_dg.analysis.statistics.resampling import permutation_within
from sfmoe_dg.analysis.subject.observations import Observations
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.seeds import generator

MIN_UNITS = 5
"""An attribute counts if at least this many objects of a domain have it, and this many do not."""

_ALL_ORDERS = 1000
"""If the experts have at most this many orders, all are tried; otherwise this many are drawn."""


@dataclass(frozen=True, eq=False)
class Stability:
    """Rank correlations of experts' profiles between domains.

    Attributes:
        experts: one row per expert and pair of domains: ``domain``, ``other``, ``kind`` ("seen-seen", "seen-unseen",
            "unseen-unseen"), ``expert``; ``rho``, the expert with itself; ``rho_others``, its mean rho with the other
            experts in the other domain; ``p``, the chance of such a rho if usage is unrelated to attributes.
        pairs: one row per pair of domains: ``rho`` and ``rho_others`` averaged over experts; ``attributes``, the number
            that count; ``p`` as above; ``p_same_expert``, the chance that experts paired at random reach this mean rho.
            Only ``p_same_expert`` is about the *same* expert: all profiles may be alike.
        kinds: the same means per kind of pair; ``pairs`` is their number.
    """

    experts: pd.DataFrame
    pairs: pd.DataFrame
    kinds: pd.DataFrame


def profile(units: Units, order: np.ndarray | None = None) -> np.ndarray:
    """Correlation of every attribute with every expert's usage, [A, E]; 0 where usage is constant.

    With ``order``, the usage of unit ``order[i]`` is paired with the attributes of unit i.
    """
    usage = units.usage if order is None else units.usage[order]
    return np.nan_to_num(units.answers.moments(usage).correlation)


def counting_attributes(units: Units) -> np.ndarray:
    """Which attributes vary enough to be in a profile, bool [A]."""
    known = ~np.isnan(units.attributes)
    present = (known & (np.nan_to_num(units.attributes) >= 0.5)).sum(axis=0)
    return np.minimum(present, known.sum(axis=0) - present) >= MIN_UNITS


def rank_correlations(profile_a: np.ndarray, profile_b: np.ndarray) -> np.ndarray:
    """Spearman's rho of every expert of A with every expert of B, [E, E']; 0 for a constant profile."""

    def standardised(profile: np.ndarray) -> np.ndarray:
        # Rounded, so that equal correlations share a rank.
        ranks = stats.rankdata(np.round(profile, 9), axis=0)
        centred = ranks - ranks.mean(axis=0)
        norm = np.sqrt((centred**2).sum(axis=0))
        return centred / np.where(norm > 0, norm, 1.0)

    return standardised(profile_a).T @ standardised(profile_b)


def domain_stability(
    observations: Observations, layer: str, *, permutations: int = 1000, disjoint: bool = False, seed: int = 0
) -> Stability:
    """Compare every expert's profile between all pairs of domains.

    Args:
        permutations: number of permutations of usage against attributes, within every domain.
        disjoint: use every object in one random domain only. Otherwise two domains may show the same objects and agree
            because of peculiarities of these objects.

    Raises:
        UserError: if there are fewer than two domains, or too few attributes vary in a pair.
    """
    random = generator("stability", seed)
    envs = observations.present_domains()
    if len(envs) < 2:
        raise UserError("experts are compared between domains, but these images are all of one")
    by_domain = [units_of(part, layer) for part in _by_domain(observations, envs, disjoint, random)]
    counting = np.stack([counting_attributes(units) for units in by_domain])
    pairs = list(combinations(range(len(envs)), 2))
    for a, b in pairs:
        if (counting[a] & counting[b]).sum() < 3:
            names = [observations.domain_names[envs[i]] for i in (a, b)]
            raise UserError(
                f"fewer than 3 attributes are present in and absent from {MIN_UNITS} objects of both {names[0]} and "
                f"{names[1]}; observe more images"
            )

    def likeness(profiles: list[np.ndarray]) -> np.ndarray:
        kept = [counting[a] & counting[b] for a, b in pairs]
        rows = zip(pairs, kept, strict=True)
        return np.stack([rank_correlations(profiles[a][k], profiles[b][k]) for (a, b), k in rows])

    rho = likeness([profile(units) for units in by_domain])
    null = np.stack(
        [
            np.diagonal(
                likeness([profile(u, permutation_within(u.strata, random)) for u in by_domain]), axis1=1, axis2=2
            )
            for _ in range(permutations)
        ]
    )
    kept = np.array([(counting[a] & counting[b]).sum() for a, b in pairs])
    return _report(observations, [(envs[a], envs[b]) for a, b in pairs], rho, null, kept, random)


def _by_domain(
    observations: Observations, envs: Sequence[int], disjoint: bool, random: np.random.Generator
) -> list[Observations]:
    mine = np.ones(len(observations), dtype=bool)
    if disjoint:
        known, unit = np.unique(observations.identity, return_inverse=True)
        if known[0] < 0:
            raise UserError("objects cannot be divided among domains: this data set has no identities")
        mine = np.array(envs)[random.integers(len(envs), size=len(known))][unit] == observations.domain
    return [observations.take(mine & (observations.domain == env)) for env in envs]


def _report(
    observations: Observations,
    pairs: list[tuple[int, int]],
    rho: np.ndarray,
    null: np.ndarray,
    attributes: np.ndarray,
    random: np.random.Generator,
) -> Stability:
    """``rho`` [pairs, E, E], ``null`` [R, pairs, E], ``attributes`` [pairs]."""
    num_experts = rho.shape[-1]
    own = np.diagonal(rho, axis1=1, axis2=2)
    others = (rho.sum(axis=2) - own) / max(num_experts - 1, 1)
    names, seen = observations.domain_names, observations.seen
    domains = [names[a] for a, _ in pairs]
    other_domains = [names[b] for _, b in pairs]
    kinds = [_kind(bool(seen[a]), bool(seen[b])) for a, b in pairs]
    experts = pd.DataFrame(
        {
            "domain": np.repeat(domains, num_experts),
            "other": np.repeat(other_domains, num_experts),
            "kind": np.repeat(kinds, num_experts),
            "expert": np.tile(np.arange(num_experts), len(pairs)),
            "rho": own.reshape(-1),
            "rho_others": others.reshape(-1),
            "p": _upper_p(own, null).reshape(-1),
        }
    )
    by_pair = pd.DataFrame(
        {
            "domain": domains,
            "other": other_domains,
            "kind": kinds,
            "attributes": attributes,
            "rho": own.mean(axis=1),
            "rho_others": others.mean(axis=1),
            "p": _upper_p(own.mean(axis=1), null.mean(axis=2)),
            "p_same_expert": [pairing_p(table, random) for table in rho],
        }
    )
    return Stability(experts, by_pair, _means_of_kinds(kinds, own, others, null))


def _means_of_kinds(kinds: list[str], own: np.ndarray, others: np.ndarray, null: np.ndarray) -> pd.DataFrame:
    """``own`` and ``others`` [pairs, E], ``null`` [R, pairs, E]."""
    rows = []
    for kind in dict.fromkeys(kinds):
        chosen = np.array([k == kind for k in kinds])
        mean = own[chosen].mean()
        p = float(_upper_p(mean, null[:, chosen].mean(axis=(1, 2))))
        rows.append((kind, int(chosen.sum()), float(mean), float(others[chosen].mean()), p))
    return pd.DataFrame(rows, columns=["kind", "pairs", "rho", "rho_others", "p"])


def _kind(seen: bool, other_seen: bool) -> str:
    return {2: "seen-seen", 1: "seen-unseen", 0: "unseen-unseen"}[seen + other_seen]


def _upper_p(observed: np.ndarray | float, null: np.ndarray) -> np.ndarray:
    """(1 + number of the null's rows that are at least as large) / (1 + number of rows)."""
    return (1 + (null >= np.asarray(observed) - 1e-9).sum(axis=0)) / (len(null) + 1)


def pairing_p(likeness: np.ndarray, random: np.random.Generator) -> float:
    """The chance that a random pairing of experts reaches the mean of the diagonal of ``likeness`` [E, E].

    Exact up to 6 experts (over all pairings); otherwise over 1,000 random pairings.
    """
    num_experts = len(likeness)
    true, experts = np.trace(likeness), np.arange(num_experts)
    if factorial(num_experts) <= _ALL_ORDERS:
        orders = list(permutations(range(num_experts)))
        return sum(likeness[experts, list(order)].sum() >= true - 1e-9 for order in orders) / len(orders)
    reached = sum(likeness[experts, random.permutation(num_experts)].sum() >= true - 1e-9 for _ in range(_ALL_ORDERS))
    return (1 + reached) / (_ALL_ORDERS + 1)


@dataclass(frozen=True, eq=False)
class RunMatch:
    """Experts of one run and their counterparts in another.

    Attributes:
        table: one row per expert of the first run that has a counterpart: ``expert``, ``match``, ``likeness``.
        likeness: the mean over matched pairs.
        chance: the mean likeness of the best assignment for permuted data. It is above that of random pairs, because
            the best assignment is chosen there too.
        p: the share of permutations that reach ``likeness``.
    """

    table: pd.DataFrame
    likeness: float
    chance: float
    p: float


def match(likeness: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The assignment of experts with the highest total likeness [E, E']: row and column indices."""
    rows, columns = linear_sum_assignment(likeness, maximize=True)
    return rows, columns


def match_by_profiles(first: Units, second: Units, permutations: int = 1000, seed: int = 0) -> RunMatch:
    """Match two runs' experts by the rank correlation of their attribute profiles; the images need not be the same.

    Raises:
        UserError: if the two runs have different attributes, or fewer than 3 vary in both.
    """
    if first.attribute_names != second.attribute_names:
        raise UserError(
            "experts of two runs are matched by their attributes, but the two runs have different attributes"
        )
    kept = counting_attributes(first) & counting_attributes(second)
    if kept.sum() < 3:
        raise UserError(f"fewer than 3 attributes vary in at least {MIN_UNITS} objects of both runs")
    random = generator("match by profiles", seed)
    reference = profile(first)[kept]
    null = [
        rank_correlations(reference, profile(second, permutation_within(second.strata, random))[kept])
        for _ in range(permutations)
    ]
    return _matched(rank_correlations(reference, profile(second)[kept]), null)


def match_by_patches(
    first: Observations, second: Observations, layers: tuple[str, str], permutations: int = 200, seed: int = 0
) -> RunMatch:
    """Match two runs' experts by the patches they take: likeness is the share of the union that both take (Jaccard).

    The permutations exchange the second run's images at every position, so they keep what position alone explains.

    Raises:
        UserError: if the two runs observed different images or have different grids.
    """
    same = first.grid == second.grid and all(
        np.array_equal(a, b) for a, b in ((first.domain, second.domain), (first.index, second.index))
    )
    if not same:
        raise UserError("patches of two runs are compared one by one: observe the same images, on the same grid")
    a, b = first.top_experts(layers[0]), second.top_experts(layers[1])
    sizes = first.layer(layers[0]).num_experts, second.layer(layers[1]).num_experts
    random = generator("match by patches", seed)
    null = [_jaccard(a, random.permuted(b, axis=0), sizes) for _ in range(permutations)]
    return _matched(_jaccard(a, b, sizes), null)


def _jaccard(a: np.ndarray, b: np.ndarray, sizes: tuple[int, int]) -> np.ndarray:
    """Number of patches that both experts take divided by the number that either takes, [E, E']."""
    joint = np.bincount(a.reshape(-1).astype(np.int64) * sizes[1] + b.reshape(-1), minlength=sizes[0] * sizes[1])
    both = joint.reshape(sizes).astype(np.float64)
    union = both.sum(axis=1, keepdims=True) + both.sum(axis=0, keepdims=True) - both
    return both / np.maximum(union, 1)


def _matched(likeness: np.ndarray, null: list[np.ndarray]) -> RunMatch:
    rows, columns = match(likeness)
    mean = float(likeness[rows, columns].mean())
    chance = np.array([table[match(table)].mean() for table in null])
    table = pd.DataFrame({"expert": rows, "match": columns, "likeness": likeness[rows, columns]})
    return RunMatch(table, mean, float(chance.mean()), float(_upper_p(mean, chance)))
