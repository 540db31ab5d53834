"""Measure images per second, and CPU time per image, from files to batches of 224×224; print Markdown.

    python bench/input_path.py --data_dir DATA --dataset PACS

In every round, one process measures in turn:

- DomainBed's design: every training domain has its own ``DataLoader`` of 8 workers; a worker opens a file with PIL,
  applies torchvision's transforms to the image and returns float tensors. It is rebuilt here from that description.
  DomainBed's loaders of evaluation splits are left out, in its favour: they cost memory, but no time between
  evaluations.
- ours from files, with the same augmentations: one pool of workers for all domains.
- ours from the cache (``--images cached``): images were decoded before; the device changes the colours of the batch.

"The loader" measures up to uint8 pixels in the main process, which is the work of the cores if a GPU does the rest; "on
the CPU" measures up to the model's float input.

CPU time (user and system, of this process and its workers) depends least on what else the machine does; images per
second depend on it, and on the number of processes. Needs Linux, whose /proc has the CPU time of live processes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler
from torchvision import transforms as tv

from sfmoe_dg.data.batches.cache import cached
from sfmoe_dg.data.batches.device_augment import TensorTransform
from sfmoe_dg.data.batches.loaders import Reading, TrainLoader
from sfmoe_dg.data.batches.transforms import IMAGENET_MEAN, IMAGENET_STD, ImageTransform
from sfmoe_dg.data.build import build_dataset
from sfmoe_dg.data.domains import Domain, DomainDataset
from sfmoe_dg.data.splits import split_domains

UPSTREAM_WORKERS = 8
SIZE = 224

Batches = Callable[[int], None]
"""Reads so many steps, each a batch of every training domain."""


class FloatImages(Dataset[tuple[torch.Tensor, int]]):
    """Decodes images and transforms them to floats one at a time."""

    def __init__(self, domain: Domain, indices: np.ndarray, augment: bool) -> None:
        self._paths = [domain.path(int(i)) for i in indices]
        self._targets = domain.targets[indices].tolist()
        randomly = [
            tv.RandomResizedCrop(SIZE, scale=(0.7, 1.0)),
            tv.RandomHorizontalFlip(),
            tv.ColorJitter(0.3, 0.3, 0.3, 0.3),
            tv.RandomGrayscale(),
        ]
        first = randomly if augment else [tv.Resize((SIZE, SIZE))]
        self._transform = tv.Compose([*first, tv.ToTensor(), tv.Normalize(list(IMAGENET_MEAN), list(IMAGENET_STD))])

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with Path(self._paths[index]).open("rb") as file:
            image = Image.open(file).convert("RGB")
        return self._transform(image), self._targets[index]


class Upstream:
    """One loader per training domain, whose workers live as long as it does."""

    def __init__(self, dataset: DomainDataset, indices: list[np.ndarray], train_envs: list[int], batch: int) -> None:
        self._steps, self._batch = 0, batch
        self._images = [FloatImages(dataset[env], indices[env], augment=True) for env in train_envs]
        self._loaders = [
            DataLoader(images, batch_sampler=self._Draws(self, images), num_workers=UPSTREAM_WORKERS,
                       persistent_workers=True)
            for images in self._images
        ]  # fmt: skip

    class _Draws:
        """Batches drawn with replacement, without end, as in DomainBed."""

        def __init__(self, owner: Upstream, images: FloatImages) -> None:
            self._owner, self._images = owner, images

        def __iter__(self) -> Iterator[list[int]]:
            count = self._owner._steps * self._owner._batch
            sampler = RandomSampler(self._images, replacement=True, num_samples=count)
            yield from BatchSampler(sampler, self._owner._batch, drop_last=True)

    def __call__(self, steps: int) -> None:
        self._steps = steps
        for _ in zip(*self._loaders, strict=True):
            pass


class Ours:
    """The suite's ``TrainLoader``."""

    def __init__(self, loader: TrainLoader) -> None:
        self._loader, self._step = loader, 0

    def __call__(self, steps: int) -> None:
        for _ in self._loader.batches(self._step, self._step + steps):
            pass
        self._step += steps


class FilesUnfinished(ImageTransform):
    """Without the work of the device."""

    def finish(self, pixels: torch.Tensor, seeds: np.ndarray | None) -> torch.Tensor:
        return pixels


class CacheUnfinished(TensorTransform):
    """Without the work of the device."""

    def finish(self, pixels: torch.Tensor, seeds: np.ndarray | None) -> torch.Tensor:
        return pixels


@dataclass
class Contender:
    """A way to read images, and the times of its rounds."""

    name: str
    read: Batches
    wall_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)

    def round(self, steps: int, images: int) -> None:
        started, cpu = time.perf_counter(), cpu_seconds()
        self.read(steps)
        self.wall_ms.append((time.perf_counter() - started) / images * 1e3)
        self.cpu_ms.append((cpu_seconds() - cpu) / images * 1e3)


def cpu_seconds() -> float:
    """User and system seconds of this process and its live children."""
    ticks = 0
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(") ")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def contenders(args: argparse.Namespace, cache_dir: str) -> tuple[list[Contender], int]:
    """The ways to read images, and the number of training domains: all domains but the last."""
    dataset = build_dataset(args.dataset, args.data_dir)
    train_envs = list(range(len(dataset) - 1))
    splits = split_domains(dataset, [len(train_envs)])
    started, cpu = time.perf_counter(), time.process_time()
    from_cache = cached(dataset, cache_dir)
    images, wall, cpu = sum(map(len, dataset)), time.perf_counter() - started, time.process_time() - cpu
    print(f"Cache of {images} images built in {wall:.1f} s ({cpu / images * 1e3:.2f} ms of CPU time per image).\n")

    def ours(source: DomainDataset, transform: ImageTransform) -> Ours:
        return Ours(TrainLoader(source, splits, train_envs, args.batch_size, transform, seed=0,
                                reading=Reading(args.num_workers)))  # fmt: skip

    augment = {"augment": True, "size": SIZE}
    found = [
        Contender("DomainBed's design", Upstream(dataset, [s.in_ for s in splits], train_envs, args.batch_size)),
        Contender("files, on the CPU", ours(dataset, ImageTransform(**augment))),
        Contender("files, the loader", ours(dataset, FilesUnfinished(**augment))),
        Contender("files as tensors, on the CPU", ours(dataset, TensorTransform(**augment))),
        Contender("files as tensors, the loader", ours(dataset, CacheUnfinished(**augment))),
        Contender("cache, on the CPU", ours(from_cache, TensorTransform(**augment))),
        Contender("cache, the loader", ours(from_cache, CacheUnfinished(**augment))),
    ]
    return found, len(train_envs)


def table(found: list[Contender]) -> list[str]:
    """Medians over rounds; ratios are medians of the ratios of each round, with their range."""
    lines = [
        "| input path | CPU ms per image | images per second and core | ratio (range) | images per second | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for one in found:
        ratios = [base / own for base, own in zip(found[0].cpu_ms, one.cpu_ms, strict=True)]
        cpu, wall = statistics.median(one.cpu_ms), statistics.median(one.wall_ms)
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
        quicker = statistics.median(found[0].wall_ms) / wall
        lines.append(f"| {one.name} | {cpu:.2f} | {1e3 / cpu:.0f} | {ratio} | {1e3 / wall:.0f} | {quicker:.1f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--dataset", default="PACS")
    parser.add_argument("--batch_size", type=int, default=32, help="images per domain")
    parser.add_argument("--steps", type=int, default=16, help="steps per round; the cache reads four times as many")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--num_workers", type=int, help="of our loader; default: its own choice")
    args = parser.parse_args()
    if not sys.platform.startswith("linux"):
        parser.error("needs Linux: the CPU time of live workers is read from /proc")
    warnings.filterwarnings("ignore", "This DataLoader will create 8 worker processes")
    torch.set_num_threads(1)  # as in the workers: threads that wait would count as CPU time
    with tempfile.TemporaryDirectory() as cache_dir:
        found, domains = contenders(args, cache_dir)
        for one in found:
            one.read(2)  # starts the workers
        for _ in range(args.rounds):
            for one in found:
                steps = args.steps * (4 if one.name.startswith("cache") else 1)
                one.round(steps, steps * args.batch_size * domains)
    load = os.getloadavg()[0]
    print(f"### {args.dataset}, batches of {args.batch_size} from each of {domains} domains, {args.rounds} rounds\n")
    print("\n".join(table(found)))
    print(f"\n{os.cpu_count()} cores; load average of the last minute {load:.1f}, this benchmark included.")


if __name__ == "__main__":
    main()
