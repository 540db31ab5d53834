"""Which images of which domain are trained on, selected on and tested on.

``random`` is DomainBed's split, domain by domain. ``identity`` is for data sets that show the same objects in every
domain (CUB-DG's birds, StyledDigits' digits). There a random split would train on a photo in one style and test on the
same photo in another style; ``identity`` divides the objects instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from sfmoe_dg.data.domains import DomainDataset
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.seeds import seed_hash

SPLIT_POLICIES = ("random", "identity")

Indices: TypeAlias = np.ndarray
"""int64 positions of images in one domain."""


@dataclass(frozen=True, eq=False)
class DomainSplit:
    """The parts of one domain: disjoint index arrays.

    Attributes:
        in_: in a training domain, the images to train on; in a test domain, those of the reported accuracy.
        out: the images for model selection.
        uda: in a test domain, the images that domain adaptation gets without labels.
    """

    in_: Indices
    out: Indices
    uda: Indices

    @property
    def used(self) -> Indices:
        """Every image in any part, ascending."""
        return np.sort(np.concatenate([self.in_, self.out, self.uda]))


def split_domains(
    dataset: DomainDataset,
    test_envs: Sequence[int],
    *,
    trial_seed: int = 0,
    holdout_fraction: float = 0.2,
    uda_fraction: float = 0.0,
    policy: str = "random",
) -> list[DomainSplit]:
    """Split every domain. The draw depends on the trial seed alone, not on any global generator.

    ``random``: the same indices as DomainBed's ``scripts/train.py`` and ``misc.split_dataset``.
    ``identity``: test domains show objects that no training domain shows: those that the data set's authors set apart
    (``dataset.test_identities``), or a random ``holdout_fraction`` of all; see ``_identity_groups``.

    Args:
        uda_fraction: the share of a test domain's in-split that becomes ``uda``; training domains have none.

    Raises:
        UserError: on test domains that do not exist, repeat or leave nothing to train on, on fractions outside
            [0, 1), an unknown policy, and on parts that come out empty though their fraction is above 0.
    """
    _check_request(dataset, test_envs, holdout_fraction, uda_fraction, policy)
    if policy == "random":
        splits = [
            _random_split(len(domain), seed_hash(trial_seed, env), holdout_fraction, uda_fraction, env in test_envs)
            for env, domain in enumerate(dataset)
        ]
    else:
        seed = seed_hash(trial_seed, "identity")
        splits = _identity_splits(dataset, test_envs, seed, holdout_fraction, uda_fraction)
    for env, split in enumerate(splits):
        needed = {"in": True, "out": holdout_fraction > 0, "uda": uda_fraction > 0 and env in test_envs}
        _check_not_empty(dataset, env, split, needed)
    return splits


def _shuffled(keys: list[int], seed: int) -> np.ndarray:
    # RandomState shuffles a list and an array by different code; DomainBed shuffles a list.
    keys = list(keys)
    np.random.RandomState(seed).shuffle(keys)
    return np.array(keys, dtype=np.int64)


def _random_split(size: int, seed: int, holdout: float, uda_fraction: float, is_test: bool) -> DomainSplit:
    keys = _shuffled(list(range(size)), seed)
    num_out = int(size * holdout)
    out, in_ = keys[:num_out], keys[num_out:]
    # DomainBed shuffles a test domain's in-split a second time, even if no image goes to uda.
    positions = _shuffled(list(range(len(in_))), seed) if is_test else np.arange(len(in_))
    num_uda = int(len(in_) * uda_fraction) if is_test else 0
    return DomainSplit(in_=in_[positions[num_uda:]], out=out, uda=in_[positions[:num_uda]])


def _identity_splits(
    dataset: DomainDataset, test_envs: Sequence[int], seed: int, holdout: float, uda_fraction: float
) -> list[DomainSplit]:
    """Held-out objects are used only in test domains, all others only in training domains, for training and
    validation. Test domains set a share ``holdout`` of the held-out objects apart for the oracle's selection."""
    held_out, validation, training = _identity_groups(dataset, seed, holdout)
    num_oracle = int(len(held_out) * holdout)
    oracle, reported = held_out[:num_oracle], held_out[num_oracle:]
    num_uda = int(len(reported) * uda_fraction)
    unlabeled, reported = reported[:num_uda], reported[num_uda:]
    none = np.array([], dtype=np.int64)
    splits = []
    for env, domain in enumerate(dataset):
        assert domain.identities is not None
        groups = (reported, oracle, unlabeled) if env in test_envs else (training, validation, none)
        splits.append(DomainSplit(*(_images_of(domain.identities, group) for group in groups)))
    return splits


def _identity_groups(dataset: DomainDataset, seed: int, holdout: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All identities, shuffled once for all domains, in three groups: for testing, validation and training.

    The first two have ``int(n * holdout)`` identities each. If the data set has test identities, those are the first
    group, and validation is that share of the others.
    """
    known = np.unique(np.concatenate([d.identities for d in dataset if d.identities is not None]))
    keys = _shuffled(known.tolist(), seed)
    if dataset.test_identities is None:
        size = int(len(keys) * holdout)
        held_out, rest = keys[:size], keys[size:]
    else:
        is_held_out = np.isin(keys, dataset.test_identities)
        held_out, rest = keys[is_held_out], keys[~is_held_out]
        size = int(len(rest) * holdout)
    return held_out, rest[:size], rest[size:]


def _images_of(identities: np.ndarray, group: np.ndarray) -> Indices:
    """The images that show these identities, in the order of the group."""
    order = np.argsort(group)
    position = np.searchsorted(group, identities, sorter=order) if len(group) else np.zeros(len(identities), np.int64)
    images = np.flatnonzero(np.isin(identities, group))
    ranks = order[position[images]]
    return images[np.argsort(ranks, kind="stable")].astype(np.int64)


def _check_request(
    dataset: DomainDataset, test_envs: Sequence[int], holdout_fraction: float, uda_fraction: float, policy: str
) -> None:
    dataset.check_envs(test_envs)
    if len(dataset) == 1:
        raise UserError(
            f"{dataset.name} has only the domain {dataset[0].name}; it needs at least two, to train on and to hold out"
        )
    if len(test_envs) == len(dataset):
        raise UserError(
            f"all {len(dataset)} domains of {dataset.name} are test domains, which leaves none to train on; "
            "give fewer test domains"
        )
    for name, value in (("holdout_fraction", holdout_fraction), ("uda_holdout_fraction", uda_fraction)):
        if not 0 <= value < 1:
            raise UserError(f"{name} is {value}; it must be at least 0 and below 1")
    if policy not in SPLIT_POLICIES:
        raise UserError(f"split policy {policy!r} is unknown; allowed: {', '.join(SPLIT_POLICIES)}")
    if policy == "identity" and any(domain.identities is None for domain in dataset):
        raise UserError(
            f"split policy 'identity' needs to know which images show the same object, which {dataset.name} does "
            "not tell; use 'random'"
        )


def _check_not_empty(dataset: DomainDataset, env: int, split: DomainSplit, needed: dict[str, bool]) -> None:
    for part, indices in (("in", split.in_), ("out", split.out), ("uda", split.uda)):
        if needed[part] and not len(indices):
            raise UserError(
                f"the {part}-split of domain {env} ({dataset[env].name}) of {dataset.name} is empty, of "
                f"{len(dataset[env])} images; change holdout_fraction or uda_holdout_fraction, or add images",
                "holdout_fraction",
                "uda_holdout_fraction",
            )


def check_batch_size(
    dataset: DomainDataset, splits: Sequence[DomainSplit], train_envs: Sequence[int], batch_size: int
) -> None:
    """Refuse a training domain smaller than the batch (upstream would wait for ever).

    Raises:
        UserError: naming the domain, its size and the batch size.
    """
    for env in train_envs:
        size = len(splits[env].in_)
        if size < batch_size:
            raise UserError(
                f"domain {env} ({dataset[env].name}) of {dataset.name} has {size} images to train on, fewer than "
                f"the batch size {batch_size}; set the hyper-parameter batch_size to {size} or less"
            )


def count_shared_identities(
    dataset: DomainDataset, splits: Sequence[DomainSplit], test_envs: Sequence[int]
) -> int | None:
    """The number of objects trained on in one domain and tested in another; None if the data set has no identities."""
    trained: set[int] = set()
    tested: set[int] = set()
    for env, (domain, split) in enumerate(zip(dataset, splits, strict=True)):
        if domain.identities is None:
            return None
        (tested if env in test_envs else trained).update(domain.identities[split.in_].tolist())
    return len(trained & tested)
