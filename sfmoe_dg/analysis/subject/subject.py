"""The subject of an analysis: a run, its images and routing (computed once for all figures), and its sweep's runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sfmoe_dg.analysis.subject.observations import Observations, observe
from sfmoe_dg.analysis.subject.opened import ImageSelection, OpenedRun, open_run
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.registry import unknown
from sfmoe_dg.models.moe.layers import moe_layers
from sfmoe_dg.results.read import last_record
from sfmoe_dg.results.record_lines import Record, dataset_label, num_domains
from sfmoe_dg.runs.folder import RunFolder, finished
from sfmoe_dg.training.model_file import load_model


class NotApplicable(UserError):
    """Raised where an analysis does not apply to a run. ``--what all`` then leaves the analysis out and says why."""


def short(layer: str) -> str:
    """A layer's name without the path to its network."""
    return layer.rpartition("network.")[2]


@dataclass(frozen=True)
class Candidate:
    """A finished run with its model: its folder, last record and accuracy on the training domains' out-splits."""

    folder: Path
    record: Record
    validation: float


def candidates(root: Path) -> list[Candidate]:
    """The finished runs with a model below a folder, the best on validation first."""
    runs = []
    for folder in finished(root):
        record = last_record(folder)
        envs = [env for env in range(num_domains(record)) if env not in record["args"]["test_envs"]]
        accs = [record[f"env{env}_out_acc"] for env in envs]
        runs.append(Candidate(folder.path, record, float(np.mean(accs)) if accs else 0.0))
    return sorted(runs, key=lambda candidate: -candidate.validation)


def has_experts(candidate: Candidate) -> bool:
    """Whether the run's model has a mixture-of-experts layer."""
    return bool(moe_layers(load_model(candidate.folder)))


def best_sparse(root: Path, prefer: str = "SFMoE") -> Path:
    """The run of a sweep to look into: the best one of the algorithm ``prefer`` if that has experts, otherwise the best
    one with experts, otherwise the best one.

    Raises:
        UserError: if no finished run has kept its model.
    """
    runs = candidates(root)
    ordered = sorted(runs, key=lambda candidate: candidate.record["args"]["algorithm"] != prefer)
    for candidate in ordered:
        if has_experts(candidate):
            return candidate.folder
    if runs:
        return runs[0].folder
    raise UserError(f"{root} is neither the folder of a finished run with its model nor of a sweep with such runs")


@dataclass(frozen=True, eq=False)
class Subject:
    """One run, and which of its images and layers are looked at. Expensive values are computed on first use, once.

    Args:
        target: the folder of a run, or of a sweep, whose best run with experts is taken (:func:`best_sparse`).
        images: at most so many of the out-split of every domain; None for all.
        layer: the mixture-of-experts layer for figures of one layer; the last by default.
        data_dir, device, cache_dir: see :func:`open_run`.
        prefer: see :func:`best_sparse`.
    """

    target: Path
    images: int | None = None
    layer: str | None = None
    data_dir: str | None = None
    device: str = "cpu"
    cache_dir: str | None = None
    prefer: str = "SFMoE"

    @cached_property
    def folder(self) -> Path:
        """The run's folder."""
        return self.target if self._is_run else best_sparse(self.target, self.prefer)

    @property
    def sweep(self) -> Path:
        """The folder of the run's sweep."""
        return self.target.resolve().parent if self._is_run else self.target

    @property
    def _is_run(self) -> bool:
        return RunFolder(self.target).results.is_file()

    @cached_property
    def run(self) -> OpenedRun:
        return self.opened(self.folder)

    def opened(self, folder: Path) -> OpenedRun:
        return open_run(folder, data_dir=self.data_dir, device=self.device, cache_dir=self.cache_dir)

    def require_experts(self) -> None:
        """
        Raises:
            NotApplicable: if the run has no mixture-of-experts layer.
            UserError: if the one that was asked for is none of them.
        """
        names = [name for name, _ in moe_layers(self.run.algorithm)]
        if not names:
            raise NotApplicable(
                f"{self.title} has no experts; give a run whose backbone has some, such as one of SFMoE"
            )
        # Whether the call (``name#2``) exists is known after a forward pass only; ``main_layer`` checks it.
        if self.layer is not None and self.layer.partition("#")[0] not in names:
            raise unknown("mixture-of-experts layer", self.layer, names)

    @property
    def title(self) -> str:
        """The run by its algorithm and its held-out domains."""
        return f"{self.run.spec.algorithm} (held out {self.run.held_out})"

    @cached_property
    def label(self) -> str:
        """The run's data set with its options, as tables name it."""
        return dataset_label(last_record(self.folder))

    @cached_property
    def observed(self) -> Observations:
        """The routing of the out-splits of all domains."""
        self.require_experts()
        return observe(self.run, limit=self.images)

    @property
    def main_layer(self) -> str:
        """The layer for figures of one layer."""
        observed = self.observed
        name = self.layer or list(observed.layers)[-1]
        observed.layer(name)
        return name

    @cached_property
    def selection(self) -> ImageSelection:
        """The same images as ``observed``; runs without experts have them too."""
        return self.run.select(("out",), limit=self.images)

    def batches(self, selection: ImageSelection, run: OpenedRun | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and classes on the device."""
        for batch in (run or self.run).batches(selection):
            yield batch.x, batch.y

    def inputs(self, selection: ImageSelection, run: OpenedRun | None = None) -> Tensor:
        """The images in the selection's own order, [N, C, H, W]."""
        rows, images = zip(*(run or self.run).placed(selection), strict=True)
        return torch.cat(images)[np.argsort(np.concatenate(rows))]

    @property
    def layer_title(self) -> str:
        """For titles: the layer of figures of one layer, and the run."""
        return f"layer {short(self.main_layer)} of {self.title}"

    def where(self, selection: ImageSelection | Observations | None = None) -> str:
        """For captions: how many images of which split and data set."""
        chosen = self.selection if selection is None else selection
        return f"{len(chosen)} images of the out-splits of {self.domains_of(chosen.domain)} ({self.run.dataset.name})"

    def domains_of(self, domain: np.ndarray) -> str:
        """Names of domains; unseen ones are marked."""
        names = self.run.dataset.domain_names
        return ", ".join(
            names[env] + (" (unseen)" if env in self.run.spec.test_envs else "") for env in np.unique(domain).tolist()
        )

    @cached_property
    def siblings(self) -> list[Candidate]:
        """The other finished runs of the sweep on the same data set with the same options, the best first."""
        mine, runs = self.folder.resolve(), candidates(self.sweep)
        return [c for c in runs if c.folder.resolve() != mine and dataset_label(c.record) == self.label]

    def beside(self, sparse: bool) -> OpenedRun | None:
        """A run of the sweep with the same held-out domains and trial, and experts or none; ERM before others."""
        spec = self.run.spec
        same = [
            c
            for c in self.siblings
            if tuple(c.record["args"]["test_envs"]) == spec.test_envs
            and c.record["args"]["trial_seed"] == spec.trial_seed
        ]
        for candidate in sorted(same, key=lambda c: c.record["args"]["algorithm"] != "ERM"):
            if has_experts(candidate) == sparse:
                return self.opened(candidate.folder)
        return None

    @cached_property
    def pair(self) -> dict[str, OpenedRun]:
        """This run and, if the sweep has one, its counterpart with or without experts, by algorithm."""
        other = self.beside(sparse=not moe_layers(self.run.algorithm))
        both = [self.run] if other is None else [self.run, other]
        return {f"{run.spec.algorithm} ({'sparse' if moe_layers(run.algorithm) else 'dense'})": run for run in both}

    def first_objects(self, number: int) -> np.ndarray:
        """Rows of ``selection``, [objects, domains]: the same objects in every domain.

        If the data set has no identities, or no object is in the out-splits of all domains, the first images of each.
        """
        selection, dataset = self.selection, self.run.dataset
        domains = np.unique(selection.domain)
        by_domain = [np.flatnonzero(selection.domain == env) for env in domains]
        if all(dataset[int(env)].identities is not None for env in domains):
            known = [self._identities(rows) for rows in by_domain]
            common = sorted(set.intersection(*(set(of_domain) for of_domain in known)))[:number]
            if common:
                return np.array([[of_domain[identity] for of_domain in known] for identity in common])
        shortest = min(number, *(len(rows) for rows in by_domain))
        return np.stack([rows[:shortest] for rows in by_domain], axis=1)

    def _identities(self, rows: np.ndarray) -> dict[int, int]:
        env = int(self.selection.domain[rows[0]])
        identities: Any = self.run.dataset[env].identities
        return {int(identities[self.selection.index[row]]): int(row) for row in rows[::-1]}

    def only(self, rows: np.ndarray) -> ImageSelection:
        """Some images of ``selection``."""
        s = self.selection
        return replace(s, domain=s.domain[rows], index=s.index[rows], split=s.split[rows])
