"""What the explorer shows, computed: pictures, expert choices, gates and attention of a sweep's runs on the same
images.

All of it is plain JSON; arrays are bytes in base64. Legend: N images, S patches, K choices, H heads, h×w patches.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sfmoe_dg.analysis.annotations import Annotations, annotate, identities_of
from sfmoe_dg.analysis.attention import class_token_rows
from sfmoe_dg.analysis.expert_maps import pictures
from sfmoe_dg.analysis.figures.subject import Candidate, candidates, short
from sfmoe_dg.analysis.observations import RoutingRecorder
from sfmoe_dg.analysis.opened import OpenedRun, Selection, open_run
from sfmoe_dg.analysis.predicting import vision_transformer
from sfmoe_dg.errors import UserError
from sfmoe_dg.models.moe import moe_layers
from sfmoe_dg.models.trace import routing_trace

MAX_BYTES = 45_000_000
"""Of all data together: the page stays below 50 MB."""
MAX_RUNS = 40
BLOCKS = 4
"""Attention is shown of at most so many blocks, the last among them."""
LOSSLESS = 64
"""Pictures up to this size are kept as PNG, larger ones as JPEG."""


@dataclass(frozen=True)
class Explored:
    """``data`` for the page; ``notes``, a sentence for whatever was left out."""

    data: dict[str, Any]
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Shown:
    """The images of one data set: ``table`` [objects, domains] holds positions in ``selection``, -1 for none."""

    name: str
    selection: Selection
    table: np.ndarray


def explore(
    root: Path, images: int = 200, *, data_dir: str | None = None, device: str = "cpu", cache_dir: str | None = None
) -> Explored:
    """Look into the runs of a sweep, the best of every algorithm and held-out domain, on about ``images`` images.

    Where a data set tells identities, the same objects are shown in all domains, whatever split they are in.

    Raises:
        UserError: if no finished run has kept its model, or the images are not there.
    """
    chosen, notes = _runs(root)
    names = list(dict.fromkeys(candidate.record["args"]["dataset"] for candidate in chosen))
    datasets: list[dict[str, Any]] = []
    runs: list[dict[str, Any]] = []
    shown: dict[str, Shown] = {}
    size = 0
    for place, candidate in enumerate(chosen):
        run = open_run(candidate.folder, data_dir=data_dir, device=device, cache_dir=cache_dir)
        name = run.spec.dataset
        if name not in shown:
            shown[name] = choose_images(run, max(1, images // len(names)))
            datasets.append(describe_dataset(run, shown[name]))
            size += len(str(datasets[-1]))
        runs.append(describe_run(run, candidate, shown[name]) | {"dataset": list(shown).index(name)})
        size += len(str(runs[-1]))
        if size > MAX_BYTES and place + 1 < len(chosen):
            notes.append(f"{len(chosen) - place - 1} runs are not in the explorer: the page would exceed 50 MB")
            break
    return Explored({"datasets": datasets, "runs": runs}, tuple(notes))


def _runs(root: Path) -> tuple[list[Candidate], list[str]]:
    """The best run of every data set, algorithm and held-out domains, by name; and what was left out."""
    best: dict[tuple[str, str, tuple[int, ...]], Candidate] = {}
    found = candidates(root)
    for candidate in found:
        args = candidate.record["args"]
        best.setdefault((args["dataset"], args["algorithm"], tuple(args["test_envs"])), candidate)
    if not best:
        raise UserError(f"no finished run in {root} has kept its model, so there is nothing to explore")
    ordered = [best[key] for key in sorted(best)]
    notes = []
    if len(found) > len(ordered):
        notes.append(f"the explorer shows {len(ordered)} of {len(found)} runs: the best of each algorithm and domain")
    if len(ordered) > MAX_RUNS:
        notes.append(f"{len(ordered) - MAX_RUNS} runs are not in the explorer, which shows at most {MAX_RUNS}")
    return ordered[:MAX_RUNS], notes


def choose_images(run: OpenedRun, images: int) -> Shown:
    """The same objects in every domain, held-out ones of the unseen domain first, or as many images of each domain."""
    dataset = run.dataset
    count = max(1, images // len(dataset))
    if any(domain.identities is None for domain in dataset):
        selection = run.select(("out",), limit=count)
        by_domain = [np.flatnonzero(selection.domain == env) for env in range(len(dataset))]
        table = np.full((max(len(rows) for rows in by_domain), len(dataset)), -1)
        for env, rows in enumerate(by_domain):
            table[: len(rows), env] = rows
        return Shown(run.spec.dataset, selection, table)
    env = (run.spec.test_envs or (0,))[0]
    asked = run.select(("out",), [env], limit=count)
    objects = identities_of(dataset, asked.domain, asked.index)
    domain: list[int] = []
    index: list[int] = []
    table = np.full((len(objects), len(dataset)), -1)
    for e, one in enumerate(dataset):
        identities: Any = one.identities
        first = {int(identity): i for i, identity in reversed(list(enumerate(identities)))}
        for row, identity in enumerate(objects.tolist()):
            if identity in first:
                table[row, e] = len(index)
                domain.append(e)
                index.append(first[identity])
    return Shown(run.spec.dataset, Selection(np.array(domain), np.array(index), np.repeat("", len(index))), table)


def describe_dataset(run: OpenedRun, shown: Shown) -> dict[str, Any]:
    """Names, pictures and annotations."""
    dataset, s = run.dataset, shown.selection
    notes = annotate(dataset, run.spec.data_dir, s.domain, s.index)
    pixels = pictures(dataset, s.domain, s.index)
    return {
        "name": dataset.name,
        "domains": list(dataset.domain_names),
        "classes": list(dataset.class_names),
        "parts": list(notes.part_names),
        "attributes": [str(name).replace("_", " ") for name in notes.attribute_names],
        "objects": shown.table.tolist(),
        "images": [
            {
                "src": data_uri(picture),
                "label": int(dataset[int(env)].targets[int(i)]),
                "domain": int(env),
                "parts": visible_parts(notes, row),
                "attributes": np.flatnonzero(np.nan_to_num(notes.attributes[row]) >= 0.5).tolist(),
            }
            for row, (picture, env, i) in enumerate(zip(pixels, s.domain, s.index, strict=True))
        ],
    }


def visible_parts(notes: Annotations, row: int) -> list[list[float]]:
    """[part, x, y] of every visible part, x and y as shares of the picture."""
    parts = notes.parts[row]
    return [[p, round(float(x), 3), round(float(y), 3)] for p, (x, y, seen) in enumerate(parts) if seen > 0]


def data_uri(pixels: np.ndarray) -> str:
    """A picture, uint8 [height, width, 3], as PNG or JPEG in a data URI."""
    kind = "png" if max(pixels.shape[:2]) <= LOSSLESS else "jpeg"
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=kind, **({"optimize": True} if kind == "png" else {"quality": 80}))
    return f"data:image/{kind};base64,{_base64(file.getvalue())}"


def describe_run(run: OpenedRun, candidate: Candidate, shown: Shown) -> dict[str, Any]:
    """Predictions, routing and attention of one run on the shown images."""
    selection = shown.selection
    recorder, predicted = _predict(run, selection)
    names = run.dataset.domain_names
    held_out = [names[env] for env in run.spec.test_envs]
    args = candidate.record["args"]
    attention = _attention(run, selection)
    grid = attention[0]["grid"] if attention else _square(recorder)
    return {
        "name": f"{args['algorithm']}, held out {', '.join(held_out)} "
        f"(hparams {args['hparams_seed']}, trial {args['trial_seed']})",
        "unseen": list(run.spec.test_envs),
        "splits": _split_names(run, selection),
        "predicted": predicted.tolist(),
        "grid": grid,
        "layers": [] if grid is None else list(_layers(recorder, grid[0] * grid[1])),
        "attention": attention,
    }


def _predict(run: OpenedRun, selection: Selection) -> tuple[RoutingRecorder | None, np.ndarray]:
    algorithm = run.algorithm
    predicted = np.full(len(selection), -1, dtype=np.int64)
    recorder = RoutingRecorder(algorithm, len(selection)) if moe_layers(algorithm) else None

    def predict() -> None:
        for rows, x in _batches(run, selection):
            if recorder is not None:
                recorder.next_batch(rows)
            with torch.inference_mode(), algorithm.precision.autocast():
                logits = algorithm.predict(x)
            predicted[rows] = (logits.argmax(1) if logits.shape[1] > 1 else logits[:, 0].gt(0)).cpu().numpy()

    if recorder is None:
        predict()
    else:
        with routing_trace(algorithm, recorder):
            predict()
    return recorder, predicted


def _batches(run: OpenedRun, selection: Selection) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    pairs = zip(selection.domain.tolist(), selection.index.tolist(), strict=True)
    row_of = {pair: row for row, pair in enumerate(pairs)}
    for batch in run.batches(selection, 64):
        yield np.array([row_of[batch.env, i] for i in batch.indices.tolist()]), batch.x


def _layers(recorder: RoutingRecorder | None, num_patches: int) -> Iterator[dict[str, Any]]:
    """Chosen experts and their weights in 255ths, bytes [N, S, K] each; a weight of 0 is a dropped choice."""
    for name, layer in (recorder.layers if recorder else {}).items():
        experts, gates = layer.experts[:, -num_patches:], layer.gates[:, -num_patches:]
        weights = np.clip(np.round(gates.astype(np.float32) * 255), 0, 255)
        # A choice that was kept stays visible, however small its weight.
        weights = np.where(layer.kept[:, -num_patches:], np.maximum(weights, 1), 0)
        yield {
            "name": short(name),
            "experts": layer.num_experts,
            "k": experts.shape[2],
            "chosen": _base64(experts.astype(np.uint8).tobytes()),
            "gates": _base64(weights.astype(np.uint8).tobytes()),
        }


def _attention(run: OpenedRun, selection: Selection) -> list[dict[str, Any]]:
    """Per block the class token's attention, bytes [N, H, h, w], each map in 255ths of its largest value."""
    first = next(x for _, x in _batches(run, selection))
    try:
        network = vision_transformer(run.algorithm, first[:1])
        class_token_rows(network, first[:1])
    except UserError:
        # No class token or no heads: there is no map to show, and the page says so.
        return []
    depth = len(network.blocks)
    blocks = sorted({round(b) for b in np.linspace(0, depth - 1, min(BLOCKS, depth))})
    result = []
    for block in blocks:
        maps: np.ndarray | None = None
        for rows, x in _batches(run, selection):
            found = class_token_rows(network, x, block).patches
            if maps is None:
                maps = np.zeros((len(selection), *found.shape[1:]), np.uint8)
            high = np.maximum(found.max(axis=(2, 3), keepdims=True), 1e-12)
            maps[rows] = np.round(found / high * 255)
        assert maps is not None
        name = f"block {block}" + (" (last)" if block == depth - 1 else "")
        shape = maps.shape
        result.append({"name": name, "heads": shape[1], "grid": list(shape[2:]), "maps": _base64(maps.tobytes())})
    return result


def _square(recorder: RoutingRecorder | None) -> list[int] | None:
    """The grid of a model without a class token; None if its layers do not see a square of patches."""
    tokens = {layer.experts.shape[1] for layer in recorder.layers.values()} if recorder else set()
    side = round(max(tokens, default=0) ** 0.5)
    return [side, side] if tokens == {side * side} else None


def _split_names(run: OpenedRun, selection: Selection) -> list[str]:
    members: Sequence[dict[str, set[int]]] = [
        {"in": set(split.in_.tolist()), "out": set(split.out.tolist()), "uda": set(split.uda.tolist())}
        for split in run.splits
    ]
    pairs = zip(selection.domain.tolist(), selection.index.tolist(), strict=True)
    return [next((name for name, rows in members[env].items() if i in rows), "") for env, i in pairs]


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
