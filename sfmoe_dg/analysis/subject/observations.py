"""The routing of a trained run: which experts every token of every image went to, with the images' annotations.

It is compact enough for whole data sets. A layer takes 4 bytes per token and choice: 10,000 images of 197 tokens, 12
layers and two choices take 190 MB.

Legend: N images, S tokens of one image, K choices, E experts, P parts, A attributes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sfmoe_dg.analysis.subject.annotations import Annotations, annotate, identities_of
from sfmoe_dg.analysis.subject.opened import ImageSelection, OpenedRun, open_run
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.registry import unknown
from sfmoe_dg.models.moe.layers import moe_layers
from sfmoe_dg.models.moe.trace import LayerTrace, routing_trace
from sfmoe_dg.training.evaluate import predicted_classes


@dataclass(frozen=True, eq=False)
class LayerRouting:
    """The routing of one layer for every image.

    Attributes:
        num_experts: E.
        experts: uint8 or uint16 [N, S, K], chosen experts, best first.
        gates: float16 [N, S, K], combine weights; 0 where dropped.
        kept: bool [N, S, K].
    """

    num_experts: int
    experts: np.ndarray
    gates: np.ndarray
    kept: np.ndarray

    @property
    def nbytes(self) -> int:
        return self.experts.nbytes + self.gates.nbytes + self.kept.nbytes

    def take(self, rows: np.ndarray) -> LayerRouting:
        """The routing of some images."""
        return replace(self, experts=self.experts[rows], gates=self.gates[rows], kept=self.kept[rows])

    def without_prefix(self, prefix: int) -> LayerRouting:
        """The routing of all but the first ``prefix`` tokens of every image."""
        return replace(self, experts=self.experts[:, prefix:], gates=self.gates[:, prefix:], kept=self.kept[:, prefix:])


@dataclass(frozen=True, eq=False)
class Observations:
    """Images and their routing. All arrays over images are in the same order.

    Attributes:
        domain_names: names of the data set's domains; ``domain`` holds positions in them.
        seen: bool per domain, whether the run was trained on it.
        class_names: names of the classes; ``label`` and ``predicted`` hold positions in them.
        domain, index: int64 [N], the domain of every image and its position there.
        split: N names, "in", "out" or "uda".
        label, predicted: int64 [N].
        identity: int64 [N], which object the image shows, numbered alike in all domains; -1 if unknown.
        grid: rows and columns of patches; a patch is token ``prefix + row · columns + column``.
        prefix: tokens before the patches (class token).
        layers: layer name → routing, in the order of the forward pass. A layer that runs several times in one pass is
            ``name``, ``name#2``, ….
        annotations: parts and attributes.
    """

    domain_names: tuple[str, ...]
    seen: np.ndarray
    class_names: tuple[str, ...]
    domain: np.ndarray
    index: np.ndarray
    split: np.ndarray
    label: np.ndarray
    predicted: np.ndarray
    identity: np.ndarray
    grid: tuple[int, int]
    prefix: int
    layers: Mapping[str, LayerRouting]
    annotations: Annotations

    def __len__(self) -> int:
        return len(self.index)

    @property
    def nbytes(self) -> int:
        """Bytes that the routing takes."""
        return sum(layer.nbytes for layer in self.layers.values())

    def layer(self, name: str) -> LayerRouting:
        """The routing of one layer, all tokens.

        Raises:
            UserError: if there is no such layer.
        """
        if name not in self.layers:
            raise unknown("mixture-of-experts layer", name, self.layers)
        return self.layers[name]

    def patches(self, name: str) -> LayerRouting:
        """The routing of one layer without the prefix tokens: S = rows · columns."""
        return self.layer(name).without_prefix(self.prefix)

    def top_experts(self, name: str) -> np.ndarray:
        """The first choice of every patch, [N, rows · columns]; dropped choices count too."""
        return self.patches(name).experts[:, :, 0]

    def usage(self, name: str) -> np.ndarray:
        """The share of every image's patches whose first choice is each expert, float64 [N, E]; rows sum to 1."""
        top, num_experts = self.top_experts(name), self.layer(name).num_experts
        counts = np.stack([(top == expert).sum(axis=1) for expert in range(num_experts)], axis=1)
        return counts / top.shape[1]

    def present_domains(self) -> list[int]:
        """The domains that have images here."""
        return np.unique(self.domain).tolist()

    def take(self, rows: np.ndarray) -> Observations:
        """Some of the images, by position or by a bool mask."""
        notes = self.annotations
        return replace(
            self,
            domain=self.domain[rows],
            index=self.index[rows],
            split=self.split[rows],
            label=self.label[rows],
            predicted=self.predicted[rows],
            identity=self.identity[rows],
            layers={name: layer.take(rows) for name, layer in self.layers.items()},
            annotations=replace(notes, parts=notes.parts[rows], attributes=notes.attributes[rows]),
        )


def observe(
    run: OpenedRun | str | Path,
    *,
    splits: Sequence[str] = ("out",),
    envs: Sequence[int] | None = None,
    limit: int | None = None,
    layers: Sequence[str] | None = None,
    batch_size: int = 128,
    num_workers: int | None = None,
    data_dir: str | None = None,
    device: str = "cpu",
    cache_dir: str | None = None,
) -> Observations:
    """Send images through a trained run and record its routing.

    Args:
        run: an opened run, or the folder of one.
        splits, envs, limit: which images, see :meth:`OpenedRun.select`.
        layers: names of the layers to record; all by default.
        data_dir, device, cache_dir: how a folder is opened, see :func:`open_run`; an opened run ignores them.

    Raises:
        UserError: if the run's model has no mixture-of-experts layer or does not work on a grid of patches, and as
            :func:`open_run` and :meth:`OpenedRun.select`.

    Examples:
        >>> from sfmoe_dg import observe
        >>> seen = observe("results/one", limit=5, num_workers=0)
        >>> layer = next(iter(seen.layers))
        >>> seen.top_experts(layer).shape  # 5 images of 4 domains, 4 × 4 patches: the first choice of each patch
        (20, 16)
        >>> seen.usage(layer).shape  # the share of each image's patches that each of 6 experts takes
        (20, 6)
    """
    opened = run if isinstance(run, OpenedRun) else open_run(run, data_dir=data_dir, device=device, cache_dir=cache_dir)
    selection = opened.select(splits, envs, limit)
    recorder = RoutingRecorder(opened.algorithm, len(selection))
    with routing_trace(opened.algorithm, recorder, layers=None if layers is None else list(layers)):
        predicted = predict_all(opened, selection, recorder, batch_size=batch_size, num_workers=num_workers)
    return _observations(opened, selection, predicted, recorder.layers)


def _observations(
    opened: OpenedRun, selection: ImageSelection, predicted: np.ndarray, layers: dict[str, LayerRouting]
) -> Observations:
    """The routing with what the data set knows of the images."""
    grid, prefix = _geometry(opened.algorithm, layers)
    targets = [domain.targets for domain in opened.dataset]
    pairs = zip(selection.domain.tolist(), selection.index.tolist(), strict=True)
    return Observations(
        domain_names=opened.dataset.domain_names,
        seen=np.array([name in opened.seen_domains for name in opened.dataset.domain_names]),
        class_names=opened.dataset.class_names,
        domain=selection.domain,
        index=selection.index,
        split=selection.split,
        label=np.array([targets[env][i] for env, i in pairs], dtype=np.int64),
        predicted=predicted,
        identity=identities_of(opened.dataset, selection.domain, selection.index),
        grid=grid,
        prefix=prefix,
        layers=layers,
        annotations=annotate(opened.dataset, opened.spec.data_dir, selection.domain, selection.index),
    )


def predict_all(
    opened: OpenedRun,
    selection: ImageSelection,
    recorder: RoutingRecorder | None = None,
    *,
    batch_size: int = 128,
    num_workers: int | None = None,
) -> np.ndarray:
    """The classes that a run predicts, int64 [N]. With a recorder, every pass is recorded under its images' rows."""
    predicted = np.full(len(selection), -1, dtype=np.int64)
    for rows, x in opened.placed(selection, batch_size, num_workers):
        if recorder is not None:
            recorder.next_batch(rows)
        with torch.inference_mode(), opened.algorithm.precision.autocast():
            predicted[rows] = predicted_classes(opened.algorithm.predict(x)).cpu().numpy()
    return predicted


def name_of_call(calls: Counter[str], layer: str) -> str:
    """Count another call of a layer within one pass, and name it: ``layer``, then ``layer#2``, ``layer#3``, …"""
    calls[layer] += 1
    return layer if calls[layer] == 1 else f"{layer}#{calls[layer]}"


class RoutingRecorder:
    """A callback of :func:`sfmoe_dg.models.moe.trace.routing_trace` that stores the routing of every batch by image.

    Args:
        model: what is traced.
        num_images: N.

    Attributes:
        layers: see :class:`Observations`; made when a layer first runs.
    """

    def __init__(self, model: nn.Module, num_images: int) -> None:
        self._num_experts = {name: layer.options.num_experts for name, layer in moe_layers(model)}
        self._num_images = num_images
        self._rows = np.arange(0)
        self._calls: Counter[str] = Counter()
        self.layers: dict[str, LayerRouting] = {}

    def next_batch(self, rows: np.ndarray) -> None:
        """Tell the recorder which images the next forward pass sees."""
        self._rows = rows
        self._calls.clear()

    def __call__(self, trace: LayerTrace) -> None:
        name = name_of_call(self._calls, trace.layer)
        if trace.shape[0] != len(self._rows):
            raise UserError(
                f"{trace.layer} saw {trace.shape[0]} images for a batch of {len(self._rows)}; the routing of an "
                "algorithm that predicts from other images than those asked for cannot be recorded"
            )
        if name not in self.layers:
            self.layers[name] = self._empty(trace)
        layer = self.layers[name]
        layer.experts[self._rows] = trace.experts
        layer.gates[self._rows] = trace.gates
        layer.kept[self._rows] = trace.kept

    def _empty(self, trace: LayerTrace) -> LayerRouting:
        shape = (self._num_images, *trace.experts.shape[1:])
        return LayerRouting(
            self._num_experts[trace.layer],
            np.zeros(shape, trace.experts.dtype),
            np.zeros(shape, trace.gates.dtype),
            np.zeros(shape, bool),
        )


def _geometry(model: nn.Module, layers: Mapping[str, LayerRouting]) -> tuple[tuple[int, int], int]:
    """The grid (rows, columns) of patches, and the number of tokens before the patches."""
    tokens = {layer.experts.shape[1] for layer in layers.values()}
    for module in model.modules():
        embedding: Any = getattr(module, "patch_embed", None)
        prefix = getattr(module, "num_prefix_tokens", None)
        if embedding is not None and isinstance(prefix, int):
            rows, columns = embedding.grid_size
            if tokens == {prefix + rows * columns}:
                return (rows, columns), prefix
    raise UserError("the model's mixture-of-experts layers do not see the tokens of one grid of patches")
