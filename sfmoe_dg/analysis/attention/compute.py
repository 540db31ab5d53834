"""Attention heads: where the class token attends in a block, head by head, and how much the heads overlap.

The weights are computed from the block's queries and keys, because a fused attention kernel never forms them. Source of
the figure: SF-MoE (arXiv 2206.04046), the class token's row of the last block.

Legend: B images, S tokens of one image, H heads, D width, h×w patches.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from timm.models.vision_transformer import Attention
from torch import Tensor, nn

from sfmoe_dg.analysis.subject.predicting import evaluating
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.models.moe.conditional_layers import ConditionalAttention
from sfmoe_dg.models.moe.layers import MoE


@dataclass(frozen=True, eq=False)
class ClassTokenRows:
    """The first row of every head's attention in one block.

    Attributes:
        block: 0-based.
        rows: float32 [B, H, S], weights over all tokens, each row summing to 1.
        patches: float32 [B, H, h, w], the weights over the patches alone; they sum to at most 1.
    """

    block: int
    rows: np.ndarray
    patches: np.ndarray


def attention_weights(network: Any, x: Tensor, block: int = -1) -> Tensor:
    """Softmax(q·k / √d) of one block for images ``x``, ``[B, H, S, S]``, in evaluation mode.

    Args:
        network: a vision transformer of this package or timm's, without classifier or with.
        block: 0-based, negative from the end.

    Raises:
        UserError: on a block that does not exist, a network without blocks, or attention of another kind.
    """
    blocks = list(getattr(network, "blocks", ()))
    if not -len(blocks) <= block < len(blocks):
        raise UserError(f"block {block} does not exist; {type(network).__name__} has {len(blocks)} attention blocks")
    position = block % len(blocks)
    attention = blocks[position].attn
    # If several blocks share one attention module, it runs once per block.
    call = sum(blocks[i].attn is attention for i in range(position))
    calls: list[tuple[Any, ...]] = []
    hook = attention.register_forward_pre_hook(lambda m, args: calls.append(args))
    try:
        with evaluating(network), torch.no_grad():
            network(x)
            q, k = _queries_and_keys(attention, *calls[call])
    finally:
        hook.remove()
    scores = (q.float() if q.dtype != torch.float64 else q) * attention.scale @ k.to(q.dtype).transpose(-2, -1)
    return scores.softmax(-1)


def _queries_and_keys(attention: nn.Module, x: Tensor, *conditions: Any) -> tuple[Tensor, Tensor]:
    """``[B, S, D]`` → two of ``[B, H, S, D / H]``; a conditional attention also needs its conditions."""
    if isinstance(attention, ConditionalAttention):
        qkv = attention.decide(x, *conditions).apply(attention.layer("qkv"), x)
    elif isinstance(attention, Attention) and attention.qkv is not None:
        qkv = attention.qkv(x)
    else:
        raise UserError(f"the weights of {type(attention).__name__} cannot be read; known: timm's Attention and ours")
    q, k, _ = qkv.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    if isinstance(attention, Attention):
        q, k = attention.q_norm(q), attention.k_norm(k)
    return q, k


def class_token_rows(network: Any, x: Tensor, block: int = -1) -> ClassTokenRows:
    """The class token's attention in one block, by head.

    Raises:
        UserError: as :func:`attention_weights`, and for a network without a class token.
    """
    if getattr(network, "cls_token", None) is None:
        raise UserError(f"{type(network).__name__} has no class token, so it has no attention row")
    rows = attention_weights(network, x, block)[:, :, 0].float().cpu().numpy()
    height, width = network.patch_embed.grid_size
    patches = rows[:, :, -height * width :].reshape(*rows.shape[:2], height, width)
    return ClassTokenRows(block % len(network.blocks), rows, patches)


def head_overlap(maps: np.ndarray) -> np.ndarray:
    """Overlap of every two heads' maps, ``[B, H, …]`` → ``[B, H, H]``: Σ min(a, b) of maps scaled to sum to 1.

    1 for equal maps (the diagonal), 0 for heads without a common patch. It is one minus the total variation distance.

    Raises:
        UserError: if a map has a negative value or no value above zero.
    """
    flat = np.asarray(maps, dtype=np.float64).reshape(*maps.shape[:2], -1)
    total = flat.sum(-1, keepdims=True)
    if flat.size and (flat.min() < 0 or total.min() <= 0):
        raise UserError("attention maps must have no negative value and at least one above zero")
    shares = flat / total
    return np.minimum(shares[:, :, None], shares[:, None]).sum(-1)


def head_redundancy(maps: np.ndarray) -> np.ndarray:
    """Mean overlap over the pairs of different heads, ``[B, H, …]`` → float64 [B]; NaN for a single head."""
    overlap = head_overlap(maps)
    heads = overlap.shape[1]
    if heads < 2:
        return np.full(len(overlap), np.nan)
    pairs = np.triu_indices(heads, 1)
    return overlap[:, pairs[0], pairs[1]].mean(-1)


def redundancy_by_block(network: Any, batches: Iterable[Tensor]) -> pd.DataFrame:
    """Head redundancy of the class token's rows over the patches, block by block.

    Returns:
        columns ``block``, ``sparse`` (the block holds experts), ``redundancy`` (mean over images), ``stderr``,
        ``images``.
    """
    by_block: list[list[np.ndarray]] = [[] for _ in network.blocks]
    for x in batches:
        for block, values in enumerate(by_block):
            values.append(head_redundancy(class_token_rows(network, x, block).patches))
    rows = []
    for block, parts in enumerate(by_block):
        measured = np.concatenate([np.empty(0), *parts])
        count = len(measured)
        sparse = any(isinstance(getattr(network.blocks[block], name), MoE) for name in ("attn", "mlp"))
        rows.append(
            {
                "block": block,
                "sparse": sparse,
                "redundancy": measured.mean() if count else np.nan,
                "stderr": measured.std(ddof=1) / np.sqrt(count) if count > 1 else np.nan,
                "images": count,
            }
        )
    return pd.DataFrame(rows)
