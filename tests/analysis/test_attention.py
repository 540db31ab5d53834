"""Attention heads: weights against a softmax by hand, and the overlap of heads."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny_twins import TINY_TWINS

from sfmoe_dg.analysis.attention.compute import (
    attention_weights,
    class_token_rows,
    head_overlap,
    head_redundancy,
    redundancy_by_block,
)
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.models.backbones import build_backbone


def network(name, **hparams):
    torch.manual_seed(0)
    return build_backbone((3, 32, 32), {"backbone": name, "pretrained": False, **hparams}, num_domains=3).network


def test_weights_are_a_softmax_of_queries_and_keys():
    vit = network("vit_tiny_32")
    attention = vit.blocks[0].attn
    attention.num_heads, attention.head_dim, attention.scale = 1, 64, 0.5
    with torch.no_grad():
        # All tokens are the same but for the class token, so every key is one of two.
        attention.qkv.weight.zero_()
        attention.qkv.bias.zero_()
        attention.qkv.weight[0, 0] = attention.qkv.weight[64, 0] = 1.0
        vit.blocks[0].norm1.weight.fill_(1.0)
    seen = []
    vit.blocks[0].norm1.register_forward_hook(lambda m, args, out: seen.append(out))
    x = torch.randn(1, 3, 32, 32)
    weights = attention_weights(vit, x, 0)[0, 0]
    first = seen[0][0, :, 0].tolist()  # the one number that query and key of every token are
    row = [math.exp(0.5 * first[0] * k) for k in first]
    assert weights.shape == (17, 17)
    np.testing.assert_allclose(weights[0].numpy(), [w / sum(row) for w in row], rtol=1e-4)


@pytest.mark.parametrize("name", TINY_TWINS)
def test_weights_are_those_of_the_unfused_attention(name):
    """The unfused kernel hands its weights to the attention's dropout, in every block that the attention serves."""
    vit, x = network(name).eval(), torch.randn(2, 3, 32, 32)
    handed = []
    modules = {id(block.attn): block.attn for block in vit.blocks}.values()
    for attention in modules:
        attention.fused_attn = False
        attention.attn_drop.register_forward_hook(lambda m, args, out: handed.append(out))
    with torch.no_grad():
        vit(x)
    expected = list(handed)
    assert len(expected) == 4
    for attention in modules:
        attention.fused_attn = True
    for block in range(4):
        torch.testing.assert_close(attention_weights(vit, x, block), expected[block], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(attention_weights(vit, x), expected[3], rtol=1e-4, atol=1e-5)


def test_reading_leaves_no_trace():
    vit, x = network("sf_moe_tiny_32"), torch.randn(1, 3, 32, 32)
    vit.train()
    attention_weights(vit, x, 2)
    assert vit.training
    assert vit.blocks[0].training
    assert not any(block.attn._forward_pre_hooks for block in vit.blocks)


def test_rows_of_the_class_token():
    found = class_token_rows(network("v_moe_tiny_32"), torch.randn(2, 3, 32, 32), -2)
    assert found.block == 2
    assert found.rows.shape == (2, 4, 17)
    np.testing.assert_allclose(found.rows.sum(-1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(found.patches.reshape(2, 4, 16), found.rows[:, :, 1:])


def test_overlap_by_hand():
    # Two heads over two patches: (1/2, 1/2) and (3/4, 1/4) share 1/2 + 1/4; scaling a map changes nothing.
    maps = np.array([[[1.0, 1.0], [6.0, 2.0], [0.0, 5.0]]])
    overlap = head_overlap(maps)
    np.testing.assert_allclose(overlap[0], [[1, 0.75, 0.5], [0.75, 1, 0.25], [0.5, 0.25, 1]])
    np.testing.assert_allclose(head_redundancy(maps), [(0.75 + 0.5 + 0.25) / 3])
    assert np.isnan(head_redundancy(maps[:, :1])).all()
    with pytest.raises(UserError, match="above zero"):
        head_overlap(np.zeros((1, 2, 3)))


def test_redundancy_knows_the_sparse_blocks_and_copied_heads():
    vit = network("sf_moe_tiny_32")
    with torch.no_grad():
        for start in range(0, 192, 64):  # queries, keys and values of every head like those of the first
            vit.blocks[1].attn.qkv.weight[start : start + 64] = (
                vit.blocks[1].attn.qkv.weight[start : start + 16].repeat(4, 1)
            )
            vit.blocks[1].attn.qkv.bias[start : start + 64] = vit.blocks[1].attn.qkv.bias[start : start + 16].repeat(4)
    table = redundancy_by_block(vit, torch.randn(6, 3, 32, 32).split(4))
    assert table["sparse"].tolist() == [True, False, True, False]
    assert table["images"].tolist() == [6] * 4
    assert table["redundancy"][1] == pytest.approx(1.0, abs=1e-6)
    assert (table["redundancy"].drop(1) < 0.999).all()
    assert redundancy_by_block(network("cond_moe_tiny_32"), [torch.randn(1, 3, 32, 32)])["sparse"].tolist() == [
        True,
        False,
        True,
        False,
    ]


def test_what_has_no_heads_is_refused():
    with pytest.raises(UserError, match="has 4 attention blocks"):
        attention_weights(network("vit_tiny_32"), torch.randn(1, 3, 32, 32), 4)
    with pytest.raises(UserError, match="ResNet has 0 attention blocks"):
        attention_weights(network("test_resnet"), torch.randn(1, 3, 32, 32))
    headless = network("vit_tiny_32")
    headless.cls_token = None
    with pytest.raises(UserError, match="no class token"):
        class_token_rows(headless, torch.randn(1, 3, 32, 32))
