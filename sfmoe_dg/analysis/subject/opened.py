"""A finished run opened again: its model, its data set, its splits, and any of its images as the model sees them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from sfmoe_dg.algorithms.base import Algorithm
from sfmoe_dg.algorithms.shared.precision import Precision
from sfmoe_dg.data.batches.loaders import EvalLoader, Reading
from sfmoe_dg.data.batches.workers import DomainBatch
from sfmoe_dg.data.build import open_data
from sfmoe_dg.data.catalog import CATALOG
from sfmoe_dg.data.domains import DomainDataset
from sfmoe_dg.data.splits import DomainSplit
from sfmoe_dg.foundation.devices import pick_device
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.seeds import generator, seed_everything
from sfmoe_dg.results.read import last_record
from sfmoe_dg.runs.spec import RunSpec
from sfmoe_dg.training.model_file import load_model
from sfmoe_dg.training.prepare import clean_transform

SPLITS = ("in", "out", "uda")


@dataclass(frozen=True, eq=False)
class ImageSelection:
    """Some images of a data set, in an order of their own.

    Attributes:
        domain: int64 [N], which domain.
        index: int64 [N], the position in that domain.
        split: N names of :data:`SPLITS`.
    """

    domain: np.ndarray
    index: np.ndarray
    split: np.ndarray

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True, eq=False)
class OpenedRun:
    """What :func:`open_run` returns; ``algorithm`` is in evaluation mode, with the run's precision, on the device."""

    folder: Path
    spec: RunSpec
    algorithm: Algorithm
    dataset: DomainDataset
    splits: list[DomainSplit]
    device: str

    @property
    def seen_domains(self) -> tuple[str, ...]:
        """The domains that the run was trained on."""
        names = self.dataset.domain_names
        return tuple(name for env, name in enumerate(names) if env not in self.spec.test_envs)

    @property
    def held_out(self) -> str:
        """The other domains, for titles and captions."""
        return ", ".join(self.dataset.domain_names[env] for env in self.spec.test_envs)

    def select(
        self, splits: Sequence[str] = ("out",), envs: Sequence[int] | None = None, limit: int | None = None
    ) -> ImageSelection:
        """The images of some splits of some domains (all by default), domain by domain.

        Args:
            limit: at most so many per domain: where images have identities, those of the identities that come first in
                one shuffled order for all domains: the same objects in every domain, as far as the chosen splits hold
                them.

        Raises:
            UserError: on an unknown split or domain, and if nothing is selected.
        """
        for name in splits:
            if name not in SPLITS:
                raise UserError(f"split {name!r} does not exist; the splits are {', '.join(SPLITS)}")
        envs = range(len(self.dataset)) if envs is None else envs
        self.dataset.check_envs(envs, "domain")
        found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for env in envs:
            of_split = {"in": self.splits[env].in_, "out": self.splits[env].out, "uda": self.splits[env].uda}
            index = np.concatenate([of_split[name] for name in splits])
            names = np.repeat(list(splits), [len(of_split[name]) for name in splits])
            chosen = self._first(env, index, limit)
            found.append((np.full(len(chosen), env), index[chosen], names[chosen]))
        domain, index, split = (np.concatenate(column) for column in zip(*found, strict=True))
        if not len(index):
            raise UserError(f"{self.folder} has no image in the splits {', '.join(splits)} of those domains")
        return ImageSelection(domain.astype(np.int64), index.astype(np.int64), split)

    def _first(self, env: int, index: np.ndarray, limit: int | None) -> np.ndarray:
        """Positions in ``index``, at most ``limit``, ascending."""
        if limit is None or limit >= len(index):
            return np.arange(len(index))
        identities = self.dataset[env].identities
        keys, everyone = (index, [index]) if identities is None else (identities[index], self._identities())
        # Shuffled with those of all domains, for another number of them would give another order.
        order = generator(self.spec.seed, "selection").permutation(1 + max(int(of_one.max()) for of_one in everyone))
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        return np.sort(np.argsort(rank[keys], kind="stable")[:limit])

    def _identities(self) -> list[np.ndarray]:
        return [domain.identities for domain in self.dataset if domain.identities is not None]

    def batches(
        self, selection: ImageSelection, batch_size: int = 128, num_workers: int | None = None
    ) -> Iterator[DomainBatch]:
        """The selected images, each once, without augmentation, on the device.

        A batch holds images of one domain; which ones, its ``env`` and ``indices`` say.

        Raises:
            UserError: if an image does not decode.
        """
        loader = EvalLoader(
            self.dataset,
            [selection.index[selection.domain == env] for env in range(len(self.dataset))],
            [clean_transform(self.spec.options.images, self.dataset, self.algorithm)] * len(self.dataset),
            seed=self.spec.seed,
            batch_size=batch_size,
            shuffled=self.algorithm.predicts_in_context,
            reading=Reading(num_workers, self.device),
        )
        try:
            yield from loader.batches()
        finally:
            loader.close()

    def placed(
        self, selection: ImageSelection, batch_size: int = 128, num_workers: int | None = None
    ) -> Iterator[tuple[np.ndarray, Tensor]]:
        """The images of :meth:`batches`, [B, C, H, W], each batch with its rows in the selection, int64 [B]."""
        pairs = zip(selection.domain.tolist(), selection.index.tolist(), strict=True)
        row_of = {pair: row for row, pair in enumerate(pairs)}
        for batch in self.batches(selection, batch_size, num_workers):
            yield np.array([row_of[batch.env, i] for i in batch.indices.tolist()]), batch.x


def open_run(
    folder: str | Path, *, data_dir: str | None = None, device: str = "cpu", cache_dir: str | None = None
) -> OpenedRun:
    """A finished run with its data: the same images in the same splits as in training.

    Seeds the global generators as training does, because some data sets draw their images from them.

    Args:
        data_dir: where the images are now, if not where the run found them.
        cache_dir: the folder of decoded images, for runs with the option images = "cached".

    Raises:
        UserError: if the folder holds no finished run with its model, or the data are not there.

    Examples:
        >>> from sfmoe_dg import open_run
        >>> run = open_run("results/one")
        >>> run.seen_domains, run.held_out
        (('chalk', 'ink', 'mosaic'), 'neon')
        >>> len(run.select(splits=("out",), envs=[3], limit=10))
        10
    """
    folder = Path(folder)
    spec = RunSpec.from_record(last_record(folder))
    if data_dir is not None:
        spec = replace(spec, data_dir=data_dir)
    algorithm = load_model(folder)
    torch_device = pick_device(device)
    seed_everything(spec.seed)
    data = open_data(CATALOG.load(spec.dataset), spec, cache_dir)
    algorithm.precision = Precision(spec.options.precision, torch_device.type)
    return OpenedRun(folder, spec, algorithm.to(torch_device), data.dataset, data.splits, str(torch_device))
