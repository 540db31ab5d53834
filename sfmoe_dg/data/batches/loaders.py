"""Batches for training and evaluation. They do not depend on the number of workers or on where a run starts.

A loader has no random state. What a step draws follows from (seed, purpose, domain, step), and each augmented image has
its own seed, so any batch can be made again. ``workers.py`` reads what is drawn here.

Legend: B images of one request, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch

from sfmoe_dg.data.batches.kept_pixels import KeptPixels
from sfmoe_dg.data.batches.transforms import ImageTransform
from sfmoe_dg.data.batches.workers import DomainBatch, Reader, Request
from sfmoe_dg.data.domains import DomainDataset
from sfmoe_dg.data.splits import DomainSplit, check_batch_size
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.processes import World, share_of
from sfmoe_dg.foundation.seeds import generator

ALONE = World()

IndicesByDomain: TypeAlias = Mapping[int, np.ndarray]
"""Some images of some domains: domain → int64 positions."""


@dataclass(frozen=True)
class Reading:
    """How a loader reads. Apart from a process's share, it changes no batch.

    Attributes:
        num_workers: worker processes for images in files; None: up to 4, as many as there are spare cores.
        device: where the batches are put.
        start_method: how worker processes start ("fork", "spawn", "forkserver"); None: the platform's default.
        world: which of how many processes this one is; each reads its share.
    """

    num_workers: int | None = None
    device: torch.device | str = "cpu"
    start_method: str | None = None
    world: World = ALONE


class TrainBatch(NamedTuple):
    """One step: (x [B, C, H, W], y [B]) per training domain, and x per unlabeled domain, or None if there are none."""

    step: int
    minibatches: list[tuple[torch.Tensor, torch.Tensor]]
    unlabeled: list[torch.Tensor] | None


class TrainLoader:
    """Draws one batch per training domain at every step, with replacement, from its in-split.

    Args:
        dataset, splits: from ``build_dataset`` and ``split_domains``.
        train_envs: the domains to train on, in the order of the minibatches.
        batch_size: images per domain.
        transform: for images that lie in files; those in memory are used as they are.
        seed: the run's seed.
        class_balanced: draw every class of a domain equally often (DomainBed's weights, 1 / (count · classes)).
        unlabeled_envs: the domains whose uda-split is drawn from as well, for domain adaptation.
        reading: of several processes, each reads its share of every minibatch.

    Raises:
        UserError: if a domain has fewer images than a batch, an unlabeled one has none, or a batch cannot be divided
            among the processes.
    """

    def __init__(
        self,
        dataset: DomainDataset,
        splits: Sequence[DomainSplit],
        train_envs: Sequence[int],
        batch_size: int,
        transform: ImageTransform,
        *,
        seed: int,
        class_balanced: bool = False,
        unlabeled_envs: Sequence[int] = (),
        reading: Reading = Reading(),
    ) -> None:
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}; it must be at least 1")
        dataset.check_envs(train_envs, "training domain")
        check_batch_size(dataset, splits, train_envs, batch_size)
        for env in unlabeled_envs:
            if not len(splits[env].uda):
                raise UserError(
                    f"domain {env} ({dataset[env].name}) of {dataset.name} has no unlabeled images to adapt to; set "
                    "uda_holdout_fraction above 0",
                    "uda_holdout_fraction",
                )
        self._batch_size, self._seed = batch_size, seed
        self._share = share_of(batch_size, reading.world)
        self._num_labeled = len(train_envs)
        drawn_from = [("train", env, splits[env].in_) for env in train_envs]
        drawn_from += [("unlabeled", env, splits[env].uda) for env in unlabeled_envs]
        self._pools = [
            _DrawPool(purpose, env, indices, dataset[env].targets if class_balanced else None)
            for purpose, env, indices in drawn_from
        ]
        self._augment = transform.augment and not dataset.in_memory
        self._reader = _reader(dataset, [transform] * len(dataset), reading)

    def requests(self, step: int) -> tuple[Request, ...]:
        """What this process reads in one step: training domains first, then unlabeled ones."""
        drawn = [pool.draw(self._seed, step, self._batch_size, self._augment) for pool in self._pools]
        return tuple(_part(request, self._share) for request in drawn)

    def batches(self, start_step: int, stop_step: int) -> Iterator[TrainBatch]:
        """The batches of the steps from ``start_step`` up to, not including, ``stop_step``.

        Raises:
            UserError: if an image does not decode or a worker dies.
        """
        steps = range(start_step, stop_step)
        for step, batches in zip(steps, self._reader.read(map(self.requests, steps)), strict=True):
            labeled = [(batch.x, batch.y) for batch in batches[: self._num_labeled]]
            unlabeled = [batch.x for batch in batches[self._num_labeled :]]
            yield TrainBatch(step, labeled, unlabeled or None)

    def close(self) -> None:
        """End the worker processes; the next ``batches`` starts new ones."""
        self._reader.close()


class EvalLoader:
    """Reads every image of every domain once per evaluation, in file order.

    Args:
        indices: one array per domain, the positions of the images that are read; None: all images.
        transforms: one per domain. One that augments draws anew at every evaluation (DomainBed evaluates training
            domains through their augmentation).
        batch_size: images per batch; the last one of a domain may be smaller.
        shuffled: read in an order that the seed decides, so that a batch is a random sample.
        in_step: all processes read equally many batches; a process that would have one less reads the first one again.
        keep_bytes: how many bytes of decoded pixels are kept for later evaluations, of images in files that are not
            augmented.
        reading: of several processes, each reads every ``size``-th batch.
    """

    def __init__(
        self,
        dataset: DomainDataset,
        indices: Sequence[np.ndarray] | None,
        transforms: Sequence[ImageTransform],
        *,
        seed: int,
        batch_size: int = 128,
        shuffled: bool = False,
        in_step: bool = False,
        keep_bytes: int = 0,
        reading: Reading = Reading(),
    ) -> None:
        assert len(transforms) == len(dataset)
        self._dataset, self._seed, self._batch_size = dataset, seed, batch_size
        self._indices = [np.arange(len(domain)) for domain in dataset]
        if indices is not None:
            self._indices = [np.sort(own) for own in indices]
        if shuffled:
            self._indices = [generator(seed, "eval", env).permutation(own) for env, own in enumerate(self._indices)]
        self.world, self._in_step = reading.world, in_step
        self._augment = [transform.augment and not dataset.in_memory for transform in transforms]
        self._reader = _reader(dataset, transforms, reading, KeptPixels(keep_bytes) if keep_bytes else None)

    def _plan(self, step: int, envs: Sequence[int], only: IndicesByDomain) -> Iterator[tuple[Request, ...]]:
        for env in envs:
            images = self._images(env, only)
            seeds = _image_seeds(len(self._dataset[env]), self._seed, "eval", step, env) if self._augment[env] else None
            for start in range(0, len(images), self._batch_size):
                batch = images[start : start + self._batch_size]
                yield (Request(env, batch, None if seeds is None else seeds[batch]),)

    def _images(self, env: int, only: IndicesByDomain) -> np.ndarray:
        images = self._indices[env]
        return images[np.isin(images, only[env])] if env in only else images

    def num_batches(self, only: IndicesByDomain | None = None) -> int:
        """The batches of one evaluation, of all processes together."""
        sizes = [len(self._images(env, only or {})) for env in range(len(self._indices))]
        return sum(math.ceil(size / self._batch_size) for size in sizes)

    def _own(self, plan: Iterator[tuple[Request, ...]]) -> Iterator[tuple[Request, ...]]:
        """This process's part of a plan."""
        if not self.world.shared:
            return plan
        whole = list(plan)
        missing = -len(whole) % self.world.size if self._in_step else 0
        return iter((whole + whole[:1] * missing)[self.world.rank :: self.world.size])

    def batches(
        self, step: int = 0, envs: Sequence[int] | None = None, only: IndicesByDomain | None = None
    ) -> Iterator[DomainBatch]:
        """All batches of one evaluation, domain by domain. Of several processes, each yields its own share.

        Args:
            step: keys the draws of transforms that augment.
            envs: the domains to read; None: all.
            only: reads just these images of the domains named there, and the other domains whole.

        Raises:
            UserError: if an image does not decode or a worker dies.
        """
        plan = self._plan(step, range(len(self._dataset)) if envs is None else envs, only or {})
        for (batch,) in self._reader.read(self._own(plan)):
            yield batch

    def close(self) -> None:
        """End the worker processes; the next ``batches`` starts new ones."""
        self._reader.close()


def _reader(
    dataset: DomainDataset, transforms: Sequence[ImageTransform], reading: Reading, kept: KeptPixels | None = None
) -> Reader:
    return Reader(dataset, transforms, reading.num_workers, reading.device, reading.start_method, kept)


class _DrawPool:
    """The images of one domain that a step draws from, with replacement."""

    def __init__(self, purpose: str, env: int, indices: np.ndarray, targets: np.ndarray | None) -> None:
        self.purpose, self.env, self.indices = purpose, env, indices
        self.cumulative = None
        if targets is not None:
            _, inverse, counts = np.unique(targets[indices], return_inverse=True, return_counts=True)
            self.cumulative = np.cumsum(1.0 / (counts[inverse] * len(counts)))

    def draw(self, seed: int, step: int, size: int, augment: bool) -> Request:
        random = generator(seed, self.purpose, self.env, step)
        if self.cumulative is None:
            positions = random.integers(len(self.indices), size=size)
        else:
            # The sum of the weights is 1 only up to rounding, hence the scale and the clip.
            drawn = random.random(size) * self.cumulative[-1]
            positions = np.searchsorted(self.cumulative, drawn, side="right").clip(max=len(self.indices) - 1)
        seeds = _image_seeds(size, seed, self.purpose, "augment", self.env, step) if augment else None
        return Request(self.env, self.indices[positions], seeds)


def _part(request: Request, share: slice) -> Request:
    return Request(request.env, request.indices[share], None if request.seeds is None else request.seeds[share])


def _image_seeds(size: int, *key: Any) -> np.ndarray:
    return generator(*key).integers(2**63 - 1, size=size)
