"""Read requested images as batches on the device, through one pool of worker processes for all domains.

The main process plans requests; workers decode and augment images to uint8 pixels; the main process normalises them on
the device. Each augmented image has its own seed, so the number and order of the workers do not matter.

Legend: B images of one request, C channels, H height, W width.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from sfmoe_dg.data.batches.kept_pixels import KeptPixels
from sfmoe_dg.data.batches.side_stream import one_ahead, side_stream, to_device
from sfmoe_dg.data.batches.transforms import ImageTransform
from sfmoe_dg.data.domains import DomainDataset, InMemoryDomain
from sfmoe_dg.foundation.cores import usable_cores
from sfmoe_dg.foundation.errors import UserError

MAX_AUTO_WORKERS = 4
_WORKER_DIED = ("DataLoader worker (pid", "shared memory")  # from torch's error messages


class Request(NamedTuple):
    """A batch of one domain to read: int64 ``indices`` [B], int64 ``seeds`` [B] if the transform is random."""

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
    """The default number of worker processes: none for data in memory, else one per spare core, up to 4."""
    if dataset.in_memory:
        return 0
    return min(MAX_AUTO_WORKERS, usable_cores() - 1)


class Reader:
    """Turns requests into batches on the device, in order; workers decode images that lie in files.

    Images without seeds are taken from ``kept`` if they are there, and put there if they fit.
    """

    def __init__(
        self,
        dataset: DomainDataset,
        transforms: Sequence[ImageTransform],
        num_workers: int | None,
        device: torch.device | str,
        start_method: str | None,
        kept: KeptPixels | None = None,
    ) -> None:
        if num_workers is not None and num_workers < 0:
            raise UserError(f"num_workers is {num_workers}; it must be at least 0")
        self._dataset, self._transforms = dataset, transforms
        self._num_workers = auto_num_workers(dataset) if num_workers is None or dataset.in_memory else num_workers
        self._device, self._start_method = torch.device(device), start_method
        self._kept, self._stream = kept, side_stream(self._device)
        self._pixels = _Pixels(dataset, transforms)
        self._sampler = _PlanSampler()
        self._loader: DataLoader[Any] | None = None

    def read(self, plan: Plan) -> Iterator[list[DomainBatch]]:
        return one_ahead(self._finished(plan), self._stream)

    def close(self) -> None:
        self._loader = None
        if self._kept is not None:
            self._kept.clear()

    def _finished(self, plan: Plan) -> Iterator[list[DomainBatch]]:
        for requests, pixels in self._read_new(plan) if self._kept is None else self._with_kept(self._kept, plan):
            yield [self._finish(*pair) for pair in zip(requests, pixels, strict=True)]

    def _read_new(self, plan: Plan) -> Iterator[tuple[tuple[Request, ...], list[torch.Tensor | None]]]:
        for requests, pixels in self._through_workers(plan) if self._num_workers else map(self._pixels.read, plan):
            if isinstance(pixels, UserError):
                raise pixels
            yield requests, pixels

    def _with_kept(
        self, kept: KeptPixels, plan: Plan
    ) -> Iterator[tuple[tuple[Request, ...], list[torch.Tensor | None]]]:
        """The whole plan in its order; workers read only what is not kept."""
        plan = list(plan)
        known = [all(self._can_keep(one) and kept.has(one.env, one.indices) for one in requests) for requests in plan]
        new = self._read_new([requests for requests, is_known in zip(plan, known, strict=True) if not is_known])
        for requests, is_known in zip(plan, known, strict=True):
            if is_known:
                yield requests, [kept.get(one.env, one.indices) for one in requests]
                continue
            _, pixels = next(new)
            for one, read in zip(requests, pixels, strict=True):
                if read is not None and self._can_keep(one):
                    kept.add(one.env, one.indices, read)
            yield requests, pixels

    def _can_keep(self, request: Request) -> bool:
        return request.seeds is None and not isinstance(self._dataset[request.env], InMemoryDomain)

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
            # An exception of an image's reader in a worker arrives here too; its traceback must be shown.
            if not any(sign in str(error) for sign in _WORKER_DIED):
                raise
            raise UserError(
                f"a data-loading worker died ({' '.join(str(error).split())}); the machine or its shared memory "
                f"(/dev/shm) may be full: set num_workers to {self._num_workers // 2}",
                "num_workers",
            ) from None

    def _finish(self, request: Request, pixels: torch.Tensor | None) -> DomainBatch:
        domain = self._dataset[request.env]
        y = to_device(torch.from_numpy(domain.targets[request.indices]), self._device)
        if isinstance(domain, InMemoryDomain):
            x = to_device(domain.batch(request.indices), self._device)
        else:
            assert pixels is not None
            transform = self._transforms[request.env]
            x = transform.finish(to_device(pixels, self._device), request.seeds)
        return DomainBatch(request.env, request.indices, x, y)


class _Pixels(Dataset[Any]):
    """Run by workers: turns each request of a batch into uint8 pixels [B, 3, H, W], or None for domains in memory."""

    def __init__(self, dataset: DomainDataset, transforms: Sequence[ImageTransform]) -> None:
        self._domains, self._transforms = dataset.domains, tuple(transforms)

    def __getitem__(self, requests: tuple[Request, ...]) -> tuple[tuple[Request, ...], Any]:
        return self.read(requests)

    def read(self, requests: tuple[Request, ...]) -> tuple[tuple[Request, ...], list[torch.Tensor | None] | UserError]:
        try:
            return requests, [self._read_one(request) for request in requests]
        except UserError as error:
            # Returned, not raised: DataLoader would show the sentence only within a worker's traceback.
            return requests, UserError(*error.args)

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
    # Ctrl-C and Slurm's signals reach all processes; only the main process acts on them, since it saves first.
    for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGUSR2", signal.SIGINT)):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
