"""Convert a released V-MoE checkpoint to a safetensors file with this suite's names, and load that file as a model.

Legend: D width, H heads, F hidden width, E experts, p patch size.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sfmoe_dg.compat.vmoe.checkpoint import Leaf, ShardedCheckpoint
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.files import atomic_file
from sfmoe_dg.models.architectures.patterns import sparse_blocks
from sfmoe_dg.models.architectures.v_moe import SIZES, VMoEViT, cfg_for
from sfmoe_dg.models.weights.pretrained import load_pretrained

METADATA = "sfmoe_dg.v_moe"
"""The metadata of a converted file holds :class:`VMoEViT`'s arguments under this key, as JSON."""

View = Callable[[np.ndarray], np.ndarray]


def convert(prefix: str | os.PathLike[str], out: str | os.PathLike[str]) -> dict[str, Any]:
    """Write the checkpoint's arrays atomically into ``out``, as float32 under the names of :class:`VMoEViT`.

    Returns:
        the arguments of the :class:`VMoEViT` that the arrays fit; the file's metadata has them too.

    Raises:
        UserError: if the checkpoint is incomplete, damaged, or not a V-MoE, or ``out`` does not end in .safetensors.
    """
    if Path(out).suffix != ".safetensors":
        raise UserError(f"{out} must end in .safetensors, by which the file is recognised when it is loaded")
    checkpoint = ShardedCheckpoint(prefix)
    leaves = {leaf.name: leaf for leaf in checkpoint.leaves}
    config = _config(leaves, checkpoint.index_path)
    shapes = {key: tuple(value.shape) for key, value in VMoEViT(**config, device="meta").state_dict().items()}
    names = _names(config)
    _check(leaves, names, shapes, checkpoint.index_path)
    with atomic_file(out) as file:
        start = _write_header(file, shapes, {"format": "pt", METADATA: json.dumps(config)})
        size = sum(math.prod(shape) for shape in shapes.values())
        _reserve(file, start + 4 * size)
        data = np.memmap(file.name, np.float32, "r+", offset=start, shape=(size,))
        tensors = dict(_split(data, shapes))
        for leaf, region, values in checkpoint.pieces():
            key, view = names[leaf.name]
            view(tensors[key])[tuple(slice(*bounds) for bounds in region)] = values
        data.flush()
    return config


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The arguments of :class:`VMoEViT` in the metadata of a converted file.

    Raises:
        UserError: if the file was not written by :func:`convert`.
    """
    from safetensors import safe_open

    try:
        with safe_open(str(path), "np") as file:
            return dict(json.loads((file.metadata() or {})[METADATA]))
    except KeyError:
        raise UserError(
            f"{path} was not written by sfmoe-dg convert-vmoe: it does not name its model's sizes"
        ) from None
    except Exception as error:  # safetensors has an exception class of its own
        raise UserError(f"{path} cannot be read as a safetensors file ({error})") from None


def load_converted(path: str | os.PathLike[str], **changes: Any) -> VMoEViT:
    """The model of a converted file, with its weights, in training mode.

    Args:
        changes: arguments of :class:`VMoEViT` to change, such as ``img_size`` (positions are resized), ``num_classes``
            (0 for features; another number starts a new classifier) or ``capacity_ratio``.

    Raises:
        UserError: if it is no converted file, or its weights do not fit the changed model.
    """
    config = {**read_config(path), **changes}
    model = VMoEViT(**config)
    model.pretrained_cfg = cfg_for(config["img_size"], config["num_classes"])  # type: ignore[assignment]
    load_pretrained(model, Path(path), "this V-MoE")
    return model


def registered_name(config: Mapping[str, Any]) -> str | None:
    """The registered model of the same sizes, if there is one. Experts, classes and resolution may differ."""
    for name, sizes in SIZES.items():
        if "embed_layer" not in sizes and {"mlp_ratio": 4.0, **sizes}.items() <= dict(config).items():
            return name
    return None


# --------------------------------------------------------------------------------------------------- sizes and names


def _config(leaves: Mapping[str, Leaf], path: Path) -> dict[str, Any]:
    """VMoEViT's arguments, found from some of the shapes; :func:`_check` compares all of them."""
    depth = sum(1 for name in leaves if name.endswith("/LayerNorm_0/scale"))
    try:
        p, _, channels, dim = leaves["embedding/kernel"].shape
        tokens = leaves["Encoder/posembed_input/pos_embedding"].shape[1]
        heads = leaves["Encoder/encoderblock_0/SelfAttention/query/kernel"].shape[1]
        hidden = next(leaf.shape[-1] for name, leaf in leaves.items() if name.endswith("Mlp/Dense_0/bias"))
        experts = next((leaf.shape[-1] for name, leaf in leaves.items() if name.endswith("/Router/dense/kernel")), 1)
        classes = leaves["head/bias"].shape[-1] if "head/bias" in leaves else 0
        side = math.isqrt(tokens - 1)
        if dim % heads or side * side != tokens - 1 or side == 0:
            raise ValueError
    except (KeyError, IndexError, ValueError, StopIteration):
        raise UserError(
            f"{path} is not the index of a V-MoE checkpoint: it lacks patches, positions or blocks"
        ) from None
    sparse = [i for i in range(depth) if f"Encoder/encoderblock_{i}/Moe/Router/dense/kernel" in leaves]
    ratio = hidden / dim
    return {
        "img_size": side * p,
        "patch_size": p,
        "in_chans": channels,
        "embed_dim": dim,
        "depth": depth,
        "num_heads": heads,
        # timm truncates width · ratio to an integer, so a quotient that was rounded down would lose one unit.
        "mlp_ratio": ratio if int(dim * ratio) == hidden else math.nextafter(ratio, math.inf),
        "num_classes": classes,
        "pre_logits": "pre_logits/kernel" in leaves,
        "moe_layers": list(sparse_blocks(sparse, depth)),
        "num_experts": experts,
        "top_k": min(2, experts),
    }


def _names(config: Mapping[str, Any]) -> dict[str, tuple[str, View]]:
    """For every leaf the key of the state dict, and a function that views that tensor with the leaf's axes."""
    names: dict[str, tuple[str, View]] = {
        "embedding/kernel": ("patch_embed.proj.weight", lambda w: w.transpose(2, 3, 1, 0)),
        "embedding/bias": ("patch_embed.proj.bias", _same),
        "cls": ("cls_token", _same),
        "Encoder/posembed_input/pos_embedding": ("pos_embed", _same),
        "Encoder/encoder_norm/scale": ("norm.weight", _same),
        "Encoder/encoder_norm/bias": ("norm.bias", _same),
    }
    if config["pre_logits"]:
        names |= _linear("pre_logits", "pre_logits.fc")
    if config["num_classes"]:
        names |= _linear("head", "head")
    for i in range(config["depth"]):
        block, key = f"Encoder/encoderblock_{i}", f"blocks.{i}"
        for norm in (0, 1):
            names[f"{block}/LayerNorm_{norm}/scale"] = (f"{key}.norm{norm + 1}.weight", _same)
            names[f"{block}/LayerNorm_{norm}/bias"] = (f"{key}.norm{norm + 1}.bias", _same)
        names |= _attention(f"{block}/SelfAttention", f"{key}.attn", config["embed_dim"], config["num_heads"])
        if i in config["moe_layers"]:
            names[f"{block}/Moe/Router/dense/kernel"] = (f"{key}.mlp.router.weight", np.transpose)
            for layer in (0, 1):
                for theirs, ours in (("kernel", "weight"), ("bias", "bias")):
                    leaf = f"{block}/Moe/Mlp/Dense_{layer}/{theirs}"
                    names[leaf] = (f"{key}.mlp.experts.fc{layer + 1}.{ours}", _same)
        else:
            names |= _linear(f"{block}/Mlp/Dense_0", f"{key}.mlp.fc1")
            names |= _linear(f"{block}/Mlp/Dense_1", f"{key}.mlp.fc2")
    return names


def _attention(leaf: str, key: str, dim: int, heads: int) -> dict[str, tuple[str, View]]:
    """Query, key and value, [D, H, D/H] each, are three parts of one [3D, D] here; their out is [H, D/H, D]."""
    names: dict[str, tuple[str, View]] = {
        f"{leaf}/out/kernel": (f"{key}.proj.weight", lambda w: w.reshape(dim, heads, -1).transpose(1, 2, 0)),
        f"{leaf}/out/bias": (f"{key}.proj.bias", _same),
    }
    for i, part in enumerate(("query", "key", "value")):
        rows = slice(i * dim, (i + 1) * dim)

        def weight(w: np.ndarray, rows: slice = rows) -> np.ndarray:
            return w[rows].reshape(heads, -1, dim).transpose(2, 0, 1)

        def bias(b: np.ndarray, rows: slice = rows) -> np.ndarray:
            return b[rows].reshape(heads, -1)

        names[f"{leaf}/{part}/kernel"] = (f"{key}.qkv.weight", weight)
        names[f"{leaf}/{part}/bias"] = (f"{key}.qkv.bias", bias)
    return names


def _linear(leaf: str, key: str) -> dict[str, tuple[str, View]]:
    return {f"{leaf}/kernel": (f"{key}.weight", np.transpose), f"{leaf}/bias": (f"{key}.bias", _same)}


def _same(tensor: np.ndarray) -> np.ndarray:
    return tensor


def _check(
    leaves: Mapping[str, Leaf],
    names: Mapping[str, tuple[str, View]],
    shapes: Mapping[str, tuple[int, ...]],
    path: Path,
) -> None:
    assert {key for key, _ in names.values()} == set(shapes)
    zero = np.float32(0)
    wanted = {name: view(np.broadcast_to(zero, shapes[key])).shape for name, (key, view) in names.items()}
    differing = [n for n, leaf in leaves.items() if n in wanted and leaf.shape != wanted[n]]
    problems = [
        f"{len(found)} {what}: {', '.join(found[:6])}{', …' if len(found) > 6 else ''}"
        for what, found in (
            ("missing", [n for n in wanted if n not in leaves]),
            ("left over", [n for n in leaves if n not in wanted]),
            ("of another shape", [f"{n} {leaves[n].shape} for {wanted[n]}" for n in differing]),
        )
        if found
    ]
    if problems:
        raise UserError(f"{path} is not the index of a V-MoE checkpoint: {'; '.join(problems)}")


# ------------------------------------------------------------------------------------------------------ the file


def _write_header(file: Any, shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]) -> int:
    """Write the header of a safetensors file of consecutive float32 tensors; return the offset of the first."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    start = 0
    for key, shape in shapes.items():
        end = start + 4 * math.prod(shape)
        header[key] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    file.flush()
    return 8 + len(text)


def _reserve(file: Any, size: int) -> None:
    """Allocate the disk space now: writing to a full disk through a memory map would kill the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    else:
        file.truncate(size)


def _split(data: np.ndarray, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, np.ndarray]]:
    start = 0
    for key, shape in shapes.items():
        end = start + math.prod(shape)
        yield key, data[start:end].reshape(shape)
        start = end
