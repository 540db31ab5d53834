"""Our algorithms and data sets in the form that DomainBed's training script expects.

That script calls only ``update`` and ``predict``. Further tasks of our trainer are done here if possible (warm-up,
normalisation); an algorithm or option that needs the others is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sfmoe_dg.algorithms.base import Algorithm, Minibatches
from sfmoe_dg.algorithms.registry import ALGORITHMS
from sfmoe_dg.data.batches.transforms import IMAGENET_MEAN, IMAGENET_STD, ImageTransform
from sfmoe_dg.data.build import build_dataset
from sfmoe_dg.data.catalog import DatasetFacts
from sfmoe_dg.data.domains import Domain, InMemoryDomain
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.runs.hparams import check_overrides

HPARAMS = "DomainBed's --hparams"
FILES_SIZE = 224
"""DomainBed normalises images of this size, which come from files, with ImageNet's mean and deviation; others not."""


def needs_our_trainer(name: str) -> bool:
    """Whether an algorithm asks its trainer for validation losses, which DomainBed's does not compute."""
    return bool(ALGORITHMS.load(name).needs_validation_loss)


@cache
def adapt(name: str) -> type[Algorithm]:
    """One of our algorithms as a class for DomainBed's script; its constructor refuses what cannot work there."""
    ours: Any = ALGORITHMS.load(name)

    class InDomainBed(ours):  # type: ignore[misc]  # chosen by its name
        def __init__(
            self, input_shape: tuple[int, ...], num_classes: int, num_domains: int, hparams: dict[str, Any]
        ) -> None:
            refuse_before(name, num_domains, hparams)
            super().__init__(input_shape, num_classes, num_domains, hparams)
            refuse_after(self)
            self._updates = 0
            self._renormalize = renormalization(self)

        def update(self, minibatches: Minibatches, unlabeled: Sequence[Tensor] | None = None) -> dict[str, float]:
            # The number of steps is unknown here; only the cosine schedule, which is refused, needs it.
            self.schedule(self._updates, 0)
            self._updates += 1
            others = None if unlabeled is None else [self._normalized(x) for x in unlabeled]
            values = super().update([(self._normalized(x), y) for x, y in minibatches], others)
            return {name: float(value) for name, value in values.items()}

        def predict(self, x: Tensor) -> Tensor:
            return super().predict(self._normalized(x))

        def _normalized(self, x: Tensor) -> Tensor:
            if self._renormalize is None:
                return x
            scale, shift = self._renormalize
            return x * scale.to(x.device) + shift.to(x.device)

    InDomainBed.__name__ = InDomainBed.__qualname__ = name
    return InDomainBed


def refuse_before(name: str, num_domains: int, hparams: dict[str, Any]) -> None:
    """Refuse what can be refused before the network is built.

    Raises:
        UserError: for an algorithm or a hyper-parameter that cannot work in DomainBed's script.
    """
    ours = ALGORITHMS.load(name)
    if needs_our_trainer(name):
        raise UserError(
            f"{name} needs the validation loss at every evaluation, which DomainBed's training script does not tell "
            "algorithms; train it with sfmoe-dg train"
        )
    # Names, types and ranges are the same for every data set. DomainBed itself ignores misspelt names.
    check_overrides(ours.hparam_table("PACS"), hparams, HPARAMS)
    ours.check_hparams(hparams, HPARAMS)
    if hparams["lr_schedule"] != "constant":
        raise UserError(
            f"lr_schedule {hparams['lr_schedule']!r} needs to know the number of steps, which DomainBed's training "
            "script does not tell algorithms; use 'constant' (with warmup_steps, if you like)"
        )
    if num_domains < ours.min_domains:
        raise UserError(f"{name} needs at least {ours.min_domains} training domains, and there are {num_domains}")


def refuse_after(algorithm: Algorithm) -> None:
    """Refuse what only the network shows.

    Raises:
        UserError: for a network that needs to know more about the domains than DomainBed knows.
    """
    if any(getattr(module, "uses_descriptions", False) for module in algorithm.modules()):
        raise UserError(
            "routing level 'attribute' needs descriptions of the domains, which DomainBed's training script does not "
            "have; choose another routing level, or train with sfmoe-dg train"
        )


def renormalization(algorithm: Algorithm) -> tuple[Tensor, Tensor] | None:
    """Scale and shift, [3, 1, 1] each, from DomainBed's normalisation to the backbone's own.

    None if both are the same, or if DomainBed does not normalise these images.
    """
    (mean, std), imagenet = algorithm.normalization, (IMAGENET_MEAN, IMAGENET_STD)
    if algorithm.input_shape[-1] != FILES_SIZE or (mean, std) == imagenet:
        return None
    wanted_mean, wanted_std, given_mean, given_std = (torch.tensor(v).view(-1, 1, 1) for v in (mean, std, *imagenet))
    return given_std / wanted_std, (given_mean - wanted_mean) / wanted_std


class LabelledImages(Dataset[tuple[Tensor, int]]):
    """One of our domains as a torch data set of (input, class)."""

    def __init__(self, domain: Domain, transform: ImageTransform) -> None:
        self.domain, self.transform = domain, transform

    def __len__(self) -> int:
        return len(self.domain)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        target = int(self.domain.targets[index])
        if isinstance(self.domain, InMemoryDomain):
            return self.domain.batch(np.array([index]))[0], target
        picture: Any = self.domain.image(index)
        return self.transform(picture), target


def dataset_class(entry: DatasetFacts, base: type) -> type:
    """A data set of our catalog as a class of DomainBed's, for its registry."""

    def __init__(self: Any, root: str | None, test_envs: Sequence[int], hparams: dict[str, Any]) -> None:
        dataset = build_dataset(entry.name, root)
        clean = ImageTransform(size=entry.input_shape[-1])
        augmented = ImageTransform(hparams["data_augmentation"], size=entry.input_shape[-1], crop=entry.crops)
        self.input_shape, self.num_classes = dataset.input_shape, dataset.num_classes
        self.datasets = [
            LabelledImages(domain, clean if i in test_envs else augmented) for i, domain in enumerate(dataset)
        ]
        if dataset.in_memory:
            # DomainBed's loaders start this many processes each; no image is decoded here, so none is needed.
            self.N_WORKERS = 0

    facts = {
        "N_STEPS": entry.steps,
        "CHECKPOINT_FREQ": entry.checkpoint_freq,
        "ENVIRONMENTS": list(entry.labels),
        "INPUT_SHAPE": entry.input_shape,
        "__init__": __init__,
    }
    return type(entry.name, (base,), facts)
