"""Computes the explorer's data: pictures, expert choices, gates and attention of a sweep's runs on the same images.

The data are plain JSON; arrays are bytes in base64.

Legend: N images, S patches, K choices, H heads, h×w patches.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sfmoe_dg.analysis.attention.compute import class_token_rows
from sfmoe_dg.analysis.expert_maps.compute import pictures
from sfmoe_dg.analysis.subject.annotations import Annotations, annotate, identities_of
from sfmoe_dg.analysis.subject.observations import LayerRouting, RoutingRecorder, predict_all
from sfmoe_dg.analysis.subject.opened import ImageSelection, OpenedRun, open_run
from sfmoe_dg.analysis.subject.predicting import vision_transformer
from sfmoe_dg.analysis.subject.subject import Candidate, candidates, short
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.models.moe.layers import moe_layers
from sfmoe_dg.models.moe.trace import routing_trace

MAX_BYTES = 45_000_000
"""Limit of all data together. No run is added once they are larger, so they exceed the limit by one run at most."""
MAX_RUNS = 40
BLOCKS = 4
"""At most this many blocks show their attention; the last block always does."""
BATCH_SIZE = 64
LOSSLESS = 64
"""Pictures up to this size in pixels are stored as PNG, larger ones as JPEG."""
MAX_EXPERTS = 256
"""Layers with more experts are left out: a choice is one byte."""


@dataclass(frozen=True)
class Explored:
    """``data`` is for the page; ``notes`` are sentences about what was left out."""

    data: dict[str, Any]
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Shown:
    """The images of one data set. ``table`` [objects, domains] holds positions in ``selection``; -1: no such image."""

    name: str
    selection: ImageSelection
    table: np.ndarray


def explore(
    root: Path, images: int = 200, *, data_dir: str | None = None, device: str = "cpu", cache_dir: str | None = None
) -> Explored:
    """Look into the runs of a sweep, the best of every algorithm and held-out domain, on about ``images`` images.

    If a data set has identities, all domains show the same objects, whatever split these are in.

    Raises:
        UserError: if no finished run has kept its model, or the images do not exist.
    """
    chosen, notes = _runs(root)
    names = list(dict.fromkeys(candidate.record["args"]["dataset"] for candidate in chosen))
    datasets: list[dict[str, Any]] = []
    runs: list[dict[str, Any]] = []
    shown: dict[str, Shown] = {}
    size = 0
    for candidate in chosen:
        run = open_run(candidate.folder, data_dir=data_dir, device=device, cache_dir=cache_dir)
        name = run.spec.dataset
        if name not in shown:
            shown[name] = choose_images(run, max(1, images // len(names)))
            datasets.append(describe_dataset(run, shown[name]))
            size += json_size(datasets[-1])
        described, left_out = describe_run(run, candidate, shown[name])
        runs.append(described | {"dataset": list(shown).index(name)})
        notes += left_out
        size += json_size(runs[-1])
        if size > MAX_BYTES:
            rest = f", and {len(chosen) - len(runs)} runs are left out" if len(runs) < len(chosen) else ""
            notes.append(f"the explorer's data take {size / 1e6:.0f} MB, fewer images would take less{rest}")
            break
    return Explored({"datasets": datasets, "runs": runs}, tuple(notes))


def json_size(value: Any) -> int:
    """About how many characters ``value`` takes as JSON, counted without writing them."""
    if isinstance(value, str):
        return len(value) + 2
    if isinstance(value, Mapping):
        return 2 + sum(json_size(key) + json_size(entry) + 2 for key, entry in value.items())
    if isinstance(value, list):
        return 2 + sum(json_size(entry) + 1 for entry in value)
    return len(str(value))


def _runs(root: Path) -> tuple[list[Candidate], list[str]]:
    """The best run of every (data set, algorithm, held-out domains), sorted by name; and notes on what is left out."""
    best: dict[tuple[str, str, tuple[int, ...]], Candidate] = {}
    finished = candidates(root)
    for candidate in finished:
        args = candidate.record["args"]
        best.setdefault((args["dataset"], args["algorithm"], tuple(args["test_envs"])), candidate)
    if not best:
        raise UserError(f"no finished run in {root} has kept its model, so there is nothing to explore")
    ordered = [best[key] for key in sorted(best)]
    notes = []
    if len(finished) > len(ordered):
        notes.append(
            f"the explorer shows {len(ordered)} of {len(finished)} runs: the best of each algorithm and domain"
        )
    if len(ordered) > MAX_RUNS:
        notes.append(f"{len(ordered) - MAX_RUNS} runs are not in the explorer, which shows at most {MAX_RUNS}")
    return ordered[:MAX_RUNS], notes


def choose_images(run: OpenedRun, images: int) -> Shown:
    """The same objects in every domain, taken from the unseen domain's out-split; without identities, as many images of
    every domain."""
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
    split = np.array(_split_names(run, domain, index))
    return Shown(run.spec.dataset, ImageSelection(np.array(domain), np.array(index), split), table)


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


def describe_run(run: OpenedRun, candidate: Candidate, shown: Shown) -> tuple[dict[str, Any], list[str]]:
    """Predictions, routing and attention of one run on the shown images; and a note for every layer left out."""
    selection = shown.selection
    routing, predicted = _predict(run, selection)
    args = candidate.record["args"]
    name = f"{args['algorithm']}, held out {run.held_out} (hparams {args['hparams_seed']}, trial {args['trial_seed']})"
    attention = _attention(run, selection)
    grid = attention[0]["grid"] if attention else _square(routing)
    described = {
        "name": name,
        "unseen": list(run.spec.test_envs),
        "splits": _split_names(run, selection.domain.tolist(), selection.index.tolist()),
        "predicted": predicted.tolist(),
        "grid": grid,
        "layers": [] if grid is None else describe_layers(routing, grid[0] * grid[1]),
        "attention": attention,
    }
    return described, [
        f"{short(layer)} of {name} is not in the explorer, which shows layers of at most {MAX_EXPERTS} experts"
        for layer, of_layer in routing.items()
        if of_layer.num_experts > MAX_EXPERTS
    ]


def _predict(run: OpenedRun, selection: ImageSelection) -> tuple[Mapping[str, LayerRouting], np.ndarray]:
    """The routing (empty for a run without experts) and the predicted classes."""
    if not moe_layers(run.algorithm):
        return {}, predict_all(run, selection, batch_size=BATCH_SIZE)
    recorder = RoutingRecorder(run.algorithm, len(selection))
    with routing_trace(run.algorithm, recorder):
        return recorder.layers, predict_all(run, selection, recorder, batch_size=BATCH_SIZE)


def describe_layers(routing: Mapping[str, LayerRouting], num_patches: int) -> list[dict[str, Any]]:
    """Per layer the chosen experts and their weights in 255ths, bytes [N, S, K] each; 0 is a dropped choice."""
    described = []
    for name, layer in routing.items():
        if layer.num_experts > MAX_EXPERTS:
            continue
        experts, gates = layer.experts[:, -num_patches:], layer.gates[:, -num_patches:]
        weights = np.clip(np.round(gates.astype(np.float32) * 255), 0, 255)
        # A kept choice has at least 1, so that it stays visible.
        weights = np.where(layer.kept[:, -num_patches:], np.maximum(weights, 1), 0)
        described.append(
            {
                "name": short(name),
                "experts": layer.num_experts,
                "k": experts.shape[2],
                "chosen": _base64(experts.astype(np.uint8).tobytes()),
                "gates": _base64(weights.astype(np.uint8).tobytes()),
            }
        )
    return described


def _attention(run: OpenedRun, selection: ImageSelection) -> list[dict[str, Any]]:
    """Per block the class token's attention, bytes [N, H, h, w]; each map in 255ths of its largest value."""
    one = ImageSelection(selection.domain[:1], selection.index[:1], selection.split[:1])
    _, first = next(run.placed(one))
    try:
        network = vision_transformer(run.algorithm, first)
        class_token_rows(network, first)
    except UserError:
        # Without a class token or heads there is no map; the page says so.
        return []
    depth = len(network.blocks)
    blocks = sorted({round(b) for b in np.linspace(0, depth - 1, min(BLOCKS, depth))})
    maps: dict[int, np.ndarray] = {}
    # Images in the outer loop: each is decoded once for all blocks.
    for rows, x in run.placed(selection, BATCH_SIZE):
        for block in blocks:
            attention = class_token_rows(network, x, block).patches
            high = np.maximum(attention.max(axis=(2, 3), keepdims=True), 1e-12)
            if block not in maps:
                maps[block] = np.zeros((len(selection), *attention.shape[1:]), np.uint8)
            maps[block][rows] = np.round(attention / high * 255)
    return [
        {
            "name": f"block {block}" + (" (last)" if block == depth - 1 else ""),
            "heads": of_block.shape[1],
            "grid": list(of_block.shape[2:]),
            "maps": _base64(of_block.tobytes()),
        }
        for block, of_block in maps.items()
    ]


def _square(routing: Mapping[str, LayerRouting]) -> list[int] | None:
    """The grid of a model without a class token; None if its layers do not see a square grid."""
    tokens = {layer.experts.shape[1] for layer in routing.values()}
    side = round(max(tokens, default=0) ** 0.5)
    return [side, side] if tokens == {side * side} else None


def _split_names(run: OpenedRun, domain: list[int], index: list[int]) -> list[str]:
    members: Sequence[dict[str, set[int]]] = [
        {"in": set(split.in_.tolist()), "out": set(split.out.tolist()), "uda": set(split.uda.tolist())}
        for split in run.splits
    ]
    return [
        next((name for name, rows in members[env].items() if i in rows), "")
        for env, i in zip(domain, index, strict=True)
    ]


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
