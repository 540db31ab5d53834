"""Open a data set, and split it as a run does.

The whole way from a name to batches::

    seed_everything(seed)                                            # first: see below
    dataset = build_dataset("PACS", data_dir)                        # lists files and labels, decodes nothing
    splits = split_domains(dataset, test_envs=[0], trial_seed=0)     # index arrays: splits[i].in_, .out, .uda
    clean = ImageTransform(size=224)
    augmented = ImageTransform(size=224, augment=True)
    train = TrainLoader(dataset, splits, [1, 2, 3], 32, augmented, seed=seed)
    for step, minibatches, unlabeled in train.batches(0, 5001):      # minibatches: [(x, y)], one per training domain
        ...
    used = [split.used for split in splits]
    evaluation = EvalLoader(dataset, used, [clean] * len(dataset), seed=seed)
    for env, indices, x, y in evaluation.batches():                  # every image once
        ...
    train.close(), evaluation.close()                                # end the worker processes

``x`` is float [B, C, H, W] and ``y`` int64 [B]; both are on the loader's device.

ColoredMNIST, RotatedMNIST and the Debug sets draw from torch's global generator, as DomainBed does: seed it directly
before they are opened, and the data are DomainBed's bit for bit. No loader draws from a global generator: each draw
is keyed by (seed, purpose, domain, step).
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from sfmoe_dg.data.batches.cache import cached
from sfmoe_dg.data.catalog import CATALOG, DatasetFacts
from sfmoe_dg.data.domains import DomainDataset
from sfmoe_dg.data.splits import DomainSplit, split_domains
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.runs.spec import RunSpec

BAD_IMAGE_POLICIES = ("error", "skip")


@dataclass(frozen=True, eq=False)
class RunData:
    """The data of one run: the opened data set and its domains' splits, one per domain."""

    facts: DatasetFacts
    dataset: DomainDataset
    splits: list[DomainSplit]
    train_envs: list[int]
    """The domains that the run is trained on, ascending."""


def open_data(facts: DatasetFacts, spec: RunSpec, cache_dir: str | None = None) -> RunData:
    """Open the data set of a run and split its domains.

    Some data sets draw their images from the global generators: seed those first (``seeds.seed_everything``).

    Args:
        facts: the catalog's entry of ``spec.dataset``.
        cache_dir: the folder of decoded images, for runs with the option images = "cached".

    Raises:
        UserError: if the data are not there, or cannot be split so.
    """
    dataset = _open(facts, spec.data_dir, spec.options.on_bad_image)
    if spec.options.images == "cached":
        if cache_dir is None:
            raise UserError("images cached needs cache_dir, a folder for the decoded images", "images", "cache_dir")
        dataset = cached(dataset, cache_dir)
    splits = split_domains(
        dataset,
        spec.test_envs,
        trial_seed=spec.trial_seed,
        holdout_fraction=spec.holdout_fraction,
        uda_fraction=spec.uda_holdout_fraction,
        policy=spec.options.split,
    )
    return RunData(facts, dataset, splits, [env for env in range(len(dataset)) if env not in spec.test_envs])


def build_dataset(name: str, data_dir: str | None = None, *, on_bad_image: str = "error") -> DomainDataset:
    """Open a data set: list its images and labels, without decoding images that lie in files.

    Args:
        name: a name of the catalog.
        data_dir: the folder that holds the data set's folder (for ``ImageFolder``: the domain folders themselves).
        on_bad_image: "error": an image that does not decode ends the run when it is read. "skip": every image is
            decoded once now; those that do not decode are left out before any split and listed in ``skipped``.

    Raises:
        UserError: on an unknown name, missing or inconsistent folders, a missing ``data_dir``.

    Examples:
        >>> from sfmoe_dg import build_dataset
        >>> dataset = build_dataset("StyledDigits")
        >>> dataset.domain_names
        ('chalk', 'ink', 'mosaic', 'neon')
        >>> domain = dataset.domains[0]
        >>> len(domain), domain.image(0).shape, int(domain.targets[0])
        (1797, torch.Size([3, 32, 32]), 0)
    """
    return _open(CATALOG.load(name), data_dir, on_bad_image)


def _open(facts: DatasetFacts, data_dir: str | None, on_bad_image: str) -> DomainDataset:
    if on_bad_image not in BAD_IMAGE_POLICIES:
        raise UserError(f"on_bad_image is {on_bad_image!r}; allowed: {', '.join(BAD_IMAGE_POLICIES)}")
    if facts.needs_data_dir and not data_dir:
        what = f"the folder {facts.folder}" if facts.folder else "one folder per domain"
        raise UserError(f"data set {facts.name} needs data_dir, the folder that holds {what}", "data_dir")
    module_name, _, attribute = facts.reader.partition(":")
    reader = getattr(importlib.import_module(module_name), attribute)
    dataset: DomainDataset = reader(facts, data_dir, on_bad_image)
    return dataset
