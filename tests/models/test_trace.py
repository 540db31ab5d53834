"""Routing traces, recorded from outside the model."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from timm.layers import Mlp

import sfmoe_dg.models
from sfmoe_dg.errors import UserError
from sfmoe_dg.models.moe import moe_layers, set_routing
from sfmoe_dg.models.trace import TraceArrays, routing_trace


def model(**kwargs):
    assert sfmoe_dg.models
    torch.manual_seed(0)
    return timm.create_model("sf_moe_tiny_32", **kwargs).eval()


def test_a_trace_shows_what_the_layers_return_and_leaves_no_hook():
    m, x = model(), torch.randn(3, 3, 32, 32)
    seen = []
    with torch.no_grad(), routing_trace(m, seen.append, gate_dtype=torch.float32):
        m(x)
        m.forward_with_losses(x)
    assert [t.layer for t in seen] == ["blocks.0.mlp", "blocks.2.mlp"] * 2
    hidden = m.blocks[0].norm2(m.norm_pre(m._pos_embed(m.patch_embed(x))))
    hidden = m._pos_embed(m.patch_embed(x))
    hidden = hidden + m.blocks[0].attn(m.blocks[0].norm1(hidden))
    routing = m.blocks[0].mlp(m.blocks[0].norm2(hidden))[1]
    first = seen[0]
    assert first.shape == (3, 17)
    assert first.experts.dtype == np.uint8
    assert first.gates.dtype == np.float32
    np.testing.assert_array_equal(first.experts, routing.experts_TK.view(3, 17, 2).numpy())
    np.testing.assert_allclose(first.gates, routing.gates_TK.detach().view(3, 17, 2).numpy(), rtol=1e-5)
    assert first.kept.all()
    assert not any(layer._forward_hooks for _, layer in moe_layers(m))


def test_arrays_are_filled_batch_by_batch():
    m = model(num_experts=300, top_k=1)
    set_routing(m, capacity_ratio=0.5, group="image", rounding="floor")
    arrays = TraceArrays(m, num_images=5, tokens=17)
    with torch.no_grad(), routing_trace(m, arrays):
        for x in torch.randn(5, 3, 32, 32).split(2):
            m(x)
        assert arrays.filled == {"blocks.0.mlp": 5, "blocks.2.mlp": 5}
        with pytest.raises(UserError, match="room for 0 more images"):
            m(torch.randn(1, 3, 32, 32))
    assert arrays.experts["blocks.0.mlp"].dtype == np.uint16
    assert arrays.gates["blocks.0.mlp"].dtype == np.float16
    kept, gates = arrays.kept["blocks.0.mlp"], arrays.gates["blocks.0.mlp"]
    assert not kept.all()
    assert np.array_equal(kept, gates > 0)


def test_what_cannot_be_traced():
    with pytest.raises(UserError, match="no mixture-of-experts layer, so"), routing_trace(Mlp(2, 3), print):
        pass
    with pytest.raises(UserError, match=r"has blocks.0.mlp, blocks.2.mlp"), routing_trace(model(), print, layers=["x"]):
        pass
