"""From a plan of which images to read, to batches on the device: one pool of worker processes for all domains.

The main process plans requests; workers decode and augment, which gives uint8 pixels; the main process normalises
them on the device. Every augmented image has a seed of its own, so the workers' number and order do not matter.

Legend: B images of one request, C channels, H height, W width.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from sfmoe_dg.data.domains import DomainDataset, InMemoryDomain
from sfmoe_dg.data.transforms import ImageTransform
from sfmoe_dg.errors import UserError

MAX_AUTO_WORKERS = 4


class Request(NamedTuple):
    """A batch of one domain, to be read: int64 ``indices`` [B], int64 ``seeds`` [B] if the transform is random."""

    env: int
    indices: np.ndarray
    seeds: np.ndarray | None


Plan: TypeAlias = Iterable[tuple[Request, ...]]


class DomainBatch(NamedTuple):
    """Images ``indices`` (int64 [B]) of domain ``env``: x [B, C, H, W] and y [B]."""

    env: int
    indices: np.ndarray
    x: torch.Tensor
    y: torch.Tensor


def auto_num_workers(dataset: DomainDataset) -> int:
    """Worker processes if the user gives no number: none for data in memory, else one per spare core, up to 4."""
    if dataset.in_memory:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MAX_AUTO_WORKERS, cores - 1)


class Reader:
    """Turns requests into batches on the device, in order, through one pool of workers if there are files to decode."""

    def __init__(
        self,
        dataset: DomainDataset,
        transforms: Sequence[ImageTransform],
        num_workers: int | None,
        device: torch.device | str,
        start_method: str | None,
    ) -> None:
        if num_workers is not None and num_workers < 0:
            raise UserError(f"num_workers is {num_workers}; it must be at least 0")
        self._dataset, self._transforms = dataset, transforms
        self._num_workers = auto_num_workers(dataset) if num_workers is None or dataset.in_memory else num_workers
        self._device, self._start_method = torch.device(device), start_method
        self._pixels = _Pixels(dataset, transforms)
        self._sampler = _PlanSampler()
        self._loader: DataLoader[Any] | None = None

    def read(self, plan: Plan) -> Iterator[list[DomainBatch]]:
        for requests, pixels in self._through_workers(plan) if self._num_workers else map(self._pixels.read, plan):
            if isinstance(pixels, UserError):
                raise pixels
            yield [self._finish(*pair) for pair in zip(requests, pixels, strict=True)]

    def close(self) -> None:
        self._loader = None

    def _through_workers(self, plan: Plan) -> Iterator[Any]:
        if self._loader is None:
            self._loader = DataLoader(
                self._pixels,
                batch_size=None,
                sampler=self._sampler,
                num_workers=self._num_workers,
                collate_fn=_as_it_is,
                worker_init_fn=_prepare_worker,
                persistent_workers=True,
                pin_memory=self._device.type == "cuda",
                multiprocessing_context=self._start_method,
                generator=torch.Generator(),  # otherwise every pass draws a number from the global generator
            )
        self._sampler.plan = plan
        try:
            yield from self._loader
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise UserError(
                f"a data-loading worker died ({' '.join(str(error).split())}); the machine or its shared memory "
                f"(/dev/shm) may be full: try --num_workers {self._num_workers // 2}"
            ) from None

    def _finish(self, request: Request, pixels: torch.Tensor | None) -> DomainBatch:
        domain = self._dataset[request.env]
        y = torch.from_numpy(domain.targets[request.indices]).to(self._device)
        if isinstance(domain, InMemoryDomain):
            x = domain.batch(request.indices).to(self._device)
        else:
            assert pixels is not None
            transform = self._transforms[request.env]
            x = transform.finish(pixels.to(self._device, non_blocking=True), request.seeds)
        return DomainBatch(request.env, request.indices, x, y)


class _Pixels(Dataset[Any]):
    """What workers run: the requests of one batch to uint8 pixels [B, 3, H, W] each, None for domains in memory."""

    def __init__(self, dataset: DomainDataset, transforms: Sequence[ImageTransform]) -> None:
        self._domains, self._transforms = dataset.domains, tuple(transforms)

    def __getitem__(self, requests: tuple[Request, ...]) -> tuple[tuple[Request, ...], Any]:
        return self.read(requests)

    def read(self, requests: tuple[Request, ...]) -> tuple[tuple[Request, ...], list[torch.Tensor | None] | UserError]:
        try:
            return requests, [self._read_one(request) for request in requests]
        except UserError as error:
            # Returned, not raised: DataLoader would bury the sentence in a worker's traceback.
            return requests, UserError(str(error))

    def _read_one(self, request: Request) -> torch.Tensor | None:
        domain, transform = self._domains[request.env], self._transforms[request.env]
        if isinstance(domain, InMemoryDomain):
            return None
        return transform.read(domain, request.indices, request.seeds)


class _PlanSampler:
    """Gives DataLoader the plan of the current pass."""

    plan: Plan = ()

    def __iter__(self) -> Iterator[tuple[Request, ...]]:
        return iter(self.plan)


def _as_it_is(batch: Any) -> Any:
    return batch


def _prepare_worker(_: int) -> None:
    # Ctrl-C, and what Slurm sends to every process of a job, are the main process's business, which saves first.
    for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGUSR2", signal.SIGINT)):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
