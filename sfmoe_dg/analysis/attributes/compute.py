"""Association of visual attributes with experts, and its significance.

The unit of every statistic is an object. Images of one object in several domains share their attributes, so p-values
would be too small if images were counted as independent. An object's usage of an expert is the share of its patches
whose first choice is the expert, averaged over its images. Units with an unknown answer are left out of that attribute.

Legend: U units, A attributes, E experts, Q groups of usage.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from sfmoe_dg.analysis.statistics.information import cramers_v, entropies
from sfmoe_dg.analysis.statistics.resampling import benjamini_hochberg, bootstrap_interval, permutation_test
from sfmoe_dg.analysis.subject.observations import Observations
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.seeds import generator

_NO_VARIANCE = 1e-12


@dataclass(frozen=True, eq=False)
class Units:
    """The units that bootstrap draws and permutations exchange: objects, or images where objects are unknown.

    Attributes:
        usage: float64 [U, E].
        attributes: float64 [U, A], NaN where unknown.
        strata: int64 [U]; units are exchangeable within a stratum only.
        attribute_names: A names.
    """

    usage: np.ndarray
    attributes: np.ndarray
    strata: np.ndarray
    attribute_names: tuple[str, ...]

    @cached_property
    def answers(self) -> Answers:
        """The attributes, prepared for sums over units."""
        return Answers(self.attributes)


def units_of(observations: Observations, layer: str, within_classes: bool = False) -> Units:
    """One unit per object, or per image whose object is unknown.

    Units of one stratum were seen in the same set of domains, so that a domain's preference for an expert is not
    mistaken for an attribute's.

    Args:
        within_classes: strata are also divided by class. Attributes go along with classes; this tests what attributes
            say about experts beyond the class.

    Raises:
        UserError: if the images have no attributes, or the layer does not exist.
    """
    notes, identity = observations.annotations, observations.identity
    if not notes.attribute_names:
        raise UserError("these images have no attributes; StyledDigits and CUB-DG have")
    usage = observations.usage(layer)
    # An image without identity is a unit of its own.
    keys = np.where(identity >= 0, identity, identity.max(initial=0) + 1 + np.arange(len(identity)))
    _, first, unit = np.unique(keys, return_index=True, return_inverse=True)
    count = np.bincount(unit)
    mean = np.stack([np.bincount(unit, weights=column) / count for column in usage.T], axis=1)
    seen_in = np.zeros((len(first), len(observations.domain_names) + 1), dtype=np.int64)
    seen_in[unit, observations.domain] = 1
    if within_classes:
        seen_in[:, -1] = observations.label[first]
    _, strata = np.unique(seen_in, axis=0, return_inverse=True)
    return Units(mean, notes.attributes[first].astype(np.float64), strata.reshape(-1), notes.attribute_names)


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over the units with a known answer, of attribute x and usage u: ``[A]`` or ``[A, E]``."""

    n: np.ndarray
    x: np.ndarray
    xx: np.ndarray
    u: np.ndarray
    uu: np.ndarray
    xu: np.ndarray

    @property
    def correlation(self) -> np.ndarray:
        """Pearson's r, which for a binary attribute is the point-biserial correlation; NaN if either is constant."""
        x_variance = (self.n * self.xx - self.x**2)[:, None]
        u_variance = self.n[:, None] * self.uu - self.u**2
        product = x_variance * u_variance
        scale = _NO_VARIANCE * self.n[:, None] ** 4
        return np.where(product > scale, self._covariance / np.sqrt(np.where(product > scale, product, 1.0)), np.nan)

    @property
    def difference(self) -> np.ndarray:
        """Slope of u on x, which for a binary attribute is mean usage with it minus mean usage without it."""
        x_variance = (self.n * self.xx - self.x**2)[:, None]
        defined = x_variance > _NO_VARIANCE * self.n[:, None] ** 2
        return np.where(defined, self._covariance / np.where(defined, x_variance, 1.0), np.nan)

    @property
    def _covariance(self) -> np.ndarray:
        return self.n[:, None] * self.xu - self.x[:, None] * self.u


class Answers:
    """Attributes [U, A], prepared for many sums over units; NaN is unknown.

    All sums are matrix products. Only the smaller factor changes from one permutation or replicate to the next.
    """

    def __init__(self, attributes: np.ndarray) -> None:
        known = ~np.isnan(attributes)
        present = known & (np.nan_to_num(attributes) >= 0.5)
        x = np.where(known, attributes, 0.0)
        self._known, self._x, self._xx = (np.ascontiguousarray(part.T, dtype=np.float64) for part in (known, x, x**2))
        self._classes = np.stack([known & ~present, present]).transpose(0, 2, 1).astype(np.float64)

    def moments(self, usage: np.ndarray, weights: np.ndarray | None = None) -> Moments:
        """See :class:`Moments`; ``usage`` [U, E], and ``weights`` [U] says how often each unit counts."""
        w = np.ones(len(usage)) if weights is None else weights
        weighted, experts = usage * w[:, None], usage.shape[1]
        of_known = self._known @ np.column_stack([w, weighted, weighted * usage])
        of_x = self._x @ np.column_stack([w, weighted])
        return Moments(
            n=of_known[:, 0],
            x=of_x[:, 0],
            xx=self._xx @ w,
            u=of_known[:, 1 : experts + 1],
            uu=of_known[:, experts + 1 :],
            xu=of_x[:, 1:],
        )

    def tables(self, masses: np.ndarray) -> np.ndarray:
        """Tables attribute (absent, present) × column from ``masses`` [U, columns]: [A, 2, columns].

        An attribute with a share as its value counts as present if the share is at least one half.
        """
        return (self._classes @ masses).transpose(1, 0, 2)

    def group_tables(self, grouped: np.ndarray) -> np.ndarray:
        """Tables attribute × usage group from one-hot ``grouped`` [U, E, Q]: counts [A, E, 2, Q]."""
        units, experts, groups = grouped.shape
        flat = self.tables(grouped.reshape(units, -1).astype(np.float64))
        return flat.reshape(-1, 2, experts, groups).transpose(0, 2, 1, 3)


def usage_groups(usage: np.ndarray, groups: int = 3) -> np.ndarray:
    """Units in ``groups`` groups of about equal size, by their usage of each expert; one-hot bool [U, E, Q].

    Group q holds the units above exactly q of the quantiles. Units of equal usage stay together, so a group may be
    empty.
    """
    usage = np.round(usage, 9)  # equal means may differ in their last bit
    edges = np.quantile(usage, np.arange(1, groups) / groups, axis=0)
    group = (usage[None] > edges[:, None]).sum(axis=0)
    return group[..., None] == np.arange(groups)


def attribute_associations(
    observations: Observations,
    layer: str,
    *,
    permutations: int = 2000,
    replicates: int = 1000,
    groups: int = 3,
    within_classes: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """Every attribute against every expert, one row each. See :func:`associate` for the columns.

    Raises:
        UserError: see :func:`units_of`.
    """
    units = units_of(observations, layer, within_classes)
    random = generator("attribute associations", seed)
    return associate(units, random, permutations=permutations, replicates=replicates, groups=groups)


def associate(
    units: Units, random: np.random.Generator, *, permutations: int = 2000, replicates: int = 1000, groups: int = 3
) -> pd.DataFrame:
    """Strength, significance and uncertainty of every pair of attribute and expert.

    Columns:
        attribute, expert;
        units, share: units that answer the attribute, and the mean of their answers;
        r, r_low, r_high: point-biserial correlation with usage and its 95 % bootstrap interval;
        difference, difference_low, difference_high: usage with the attribute minus usage without it, likewise;
        cramers_v, mutual_information: of attribute × usage in ``groups`` groups; the latter in bits;
        mutual_information_chance: the mean of the mutual information over permutations, which is above 0;
        p, p_bh, p_max: permutation test of \\|r\\|, Benjamini–Hochberg over all pairs, and Westfall–Young's maximum;
        p_information, p_information_bh: p and p_bh for the mutual information, which also sees relations that are not
            monotone.
    """
    columns = _effects(units, random, replicates) | _tests(units, random, permutations, groups)
    shape = columns["r"].shape
    head = {
        "attribute": np.repeat(units.attribute_names, shape[1]),
        "expert": np.tile(np.arange(shape[1]), shape[0]),
    }
    return pd.DataFrame(head | {name: values.reshape(-1) for name, values in columns.items()})


def _effects(units: Units, random: np.random.Generator, replicates: int) -> dict[str, np.ndarray]:
    """The columns of :func:`associate` for strength, [A, E] each."""

    def effects(weights: np.ndarray) -> np.ndarray:
        drawn = units.answers.moments(units.usage, weights)
        return np.stack([drawn.correlation, drawn.difference])

    low, high = bootstrap_interval(effects, len(units.usage), replicates, random)
    moments = units.answers.moments(units.usage)
    pairs = moments.correlation.shape
    return {
        "units": np.broadcast_to(moments.n[:, None].astype(np.int64), pairs),
        "share": np.broadcast_to((moments.x / np.maximum(moments.n, 1))[:, None], pairs),
        "r": moments.correlation,
        "r_low": low[0],
        "r_high": high[0],
        "difference": moments.difference,
        "difference_low": low[1],
        "difference_high": high[1],
    }


def _tests(units: Units, random: np.random.Generator, permutations: int, groups: int) -> dict[str, np.ndarray]:
    """The columns of :func:`associate` for significance and for the tested tables, [A, E] each."""
    usage, answers = units.usage, units.answers
    grouped = usage_groups(usage, groups)
    by_r = permutation_test(
        lambda order: np.abs(answers.moments(usage[order]).correlation), units.strata, permutations, random
    )
    by_information = permutation_test(
        lambda order: entropies(answers.group_tables(grouped[order])).mutual, units.strata, permutations, random
    )
    p_information = np.where(np.isnan(by_r.p), np.nan, by_information.p)
    return {
        "cramers_v": cramers_v(answers.group_tables(grouped)),
        "mutual_information": by_information.observed,
        "mutual_information_chance": by_information.null_mean,
        "p": by_r.p,
        "p_bh": benjamini_hochberg(by_r.p),
        "p_max": by_r.p_max,
        "p_information": p_information,
        "p_information_bh": benjamini_hochberg(p_information),
    }


def attributes_in_routing(units: Units, random: np.random.Generator, permutations: int = 2000) -> pd.DataFrame:
    """Test every attribute against all experts at once: does routing as a whole differ with the attribute?

    Each unit adds a mass of 1, divided by its usage of the experts, to a table attribute × expert.

    Columns: attribute, units, cramers_v, mutual_information (bits), p (permutation test of the latter), p_bh.
    """
    answers, usage = units.answers, units.usage
    test = permutation_test(
        lambda order: entropies(answers.tables(usage[order])).mutual, units.strata, permutations, random
    )
    v = cramers_v(answers.tables(usage))
    p = np.where(np.isnan(v), np.nan, test.p)
    return pd.DataFrame(
        {
            "attribute": units.attribute_names,
            "units": (~np.isnan(units.attributes)).sum(axis=0),
            "cramers_v": v,
            "mutual_information": test.observed,
            "p": p,
            "p_bh": benjamini_hochberg(p),
        }
    )
