"""A small writer of the released V-MoE checkpoint format, for tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

Region = tuple[tuple[int, int], ...]


def ext(code: int, *items: Any) -> msgpack.ExtType:
    return msgpack.ExtType(code, msgpack.packb(items))


def slices(region: Region) -> list[bytes]:
    return [msgpack.packb([start, stop, None]) for start, stop in region]


def index_leaf(shape: Sequence[int], dtype: str, regions: Sequence[Region], shards: Sequence[int]) -> msgpack.ExtType:
    shaped = msgpack.packb([list(shape), dtype, False, {}])
    return ext(8, shaped, [msgpack.packb(slices(region)) for region in regions], list(shards))


def array(values: np.ndarray, dtype: str) -> msgpack.ExtType:
    values = values.astype(np.float32).reshape(-1)
    if dtype == "bfloat16":
        stored: np.ndarray = (values.view(np.uint32) >> 16).astype(np.uint16)
    else:
        stored = values.astype(dtype)
    return ext(1, [values.size], dtype, stored.tobytes())


def regions_of(name: str, shape: tuple[int, ...], shards: int) -> list[Region]:
    """Expert weights are cut along the experts, as in the released files; the rest is whole."""
    whole = tuple((0, n) for n in shape)
    if "/Moe/Mlp/" not in name or shape[0] < shards:
        return [whole]
    cuts = [shape[0] * i // shards for i in range(shards + 1)]
    return [((a, b), *whole[1:]) for a, b in pairwise(cuts)]


def write(
    prefix: Path,
    shapes: Mapping[str, tuple[int, ...]],
    values: Callable[[str, Region], np.ndarray],
    shards: int = 2,
    dtype: str = "float32",
    pieces: int = 1,
) -> None:
    """Write arrays of these shapes, one region in memory at a time, each in ``pieces`` flat arrays."""
    tree: dict[str, Any] = {}
    placed: list[list[tuple[int, str, Region]]] = [[] for _ in range(shards)]
    # The order of a tree whose keys are sorted at every level.
    for number, name in enumerate(sorted(shapes, key=lambda n: n.split("/"))):
        regions = regions_of(name, shapes[name], shards)
        where = [(number + i) % shards for i in range(len(regions))]
        for region, shard in zip(regions, where, strict=True):
            placed[shard].append((number, name, region))
        node = tree
        *folders, last = name.split("/")
        for folder in folders:
            node = node.setdefault(folder, {})
        node[last] = index_leaf(shapes[name], dtype, regions, where)
    Path(f"{prefix}.index").write_bytes(msgpack.packb({"shard_count": shards, "index": tree, "version": "20220622"}))
    for shard, items in enumerate(placed):
        write_shard(Path(f"{prefix}.data-{shard:05d}-of-{shards:05d}"), items, values, dtype, pieces)


def write_shard(
    path: Path, items: Sequence[tuple[int, str, Region]], values: Callable[..., np.ndarray], dtype: str, pieces: int
) -> None:
    packer = msgpack.Packer()
    with open(path, "wb") as file:
        file.write(packer.pack_map_header(len(items) + 1))
        file.write(packer.pack("__msgpack_array_chunk_a87ca2__") + packer.pack(True))
        for number, name, region in items:
            flat = values(name, region).reshape(-1)
            assert flat.size == prod(b - a for a, b in region)
            step = -(-flat.size // pieces)
            chunks = [array(flat[i : i + step], dtype) for i in range(0, flat.size, step)]
            file.write(
                packer.pack(str(number)) + packer.pack([[chunks, msgpack.ExtType(6, msgpack.packb(slices(region)))]])
            )


def parameter_shapes(
    *, patch: int, image: int, width: int, depth: int, hidden: int, heads: int, experts: int, sparse: Sequence[int],
    classes: int, pre_logits: bool,
) -> dict[str, tuple[int, ...]]:  # fmt: skip
    """The parameter tree of V-MoE's code."""
    d, m, e, h, s = width, hidden, experts, heads, width // heads
    shapes: dict[str, tuple[int, ...]] = {
        "embedding/kernel": (patch, patch, 3, d),
        "embedding/bias": (d,),
        "cls": (1, 1, d),
        "Encoder/posembed_input/pos_embedding": (1, 1 + (image // patch) ** 2, d),
        "Encoder/encoder_norm/scale": (d,),
        "Encoder/encoder_norm/bias": (d,),
        "head/kernel": (d, classes),
        "head/bias": (classes,),
    }
    if pre_logits:
        shapes |= {"pre_logits/kernel": (d, d), "pre_logits/bias": (d,)}
    for i in range(depth):
        block = f"Encoder/encoderblock_{i}"
        for norm in (0, 1):
            shapes |= {f"{block}/LayerNorm_{norm}/scale": (d,), f"{block}/LayerNorm_{norm}/bias": (d,)}
        for part in ("query", "key", "value"):
            shapes |= {f"{block}/SelfAttention/{part}/kernel": (d, h, s), f"{block}/SelfAttention/{part}/bias": (h, s)}
        shapes |= {f"{block}/SelfAttention/out/kernel": (h, s, d), f"{block}/SelfAttention/out/bias": (d,)}
        if i in sparse:
            mlp, stack = f"{block}/Moe/Mlp", (e,)
            shapes[f"{block}/Moe/Router/dense/kernel"] = (d, e)
        else:
            mlp, stack = f"{block}/Mlp", ()
        shapes |= {f"{mlp}/Dense_0/kernel": (*stack, d, m), f"{mlp}/Dense_0/bias": (*stack, m)}
        shapes |= {f"{mlp}/Dense_1/kernel": (*stack, m, d), f"{mlp}/Dense_1/bias": (*stack, d)}
    return shapes
