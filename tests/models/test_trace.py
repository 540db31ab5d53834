"""Routing traces, recorded from outside the model."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from timm.layers import Mlp

import sfmoe_dg.models.backbones
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.models.moe.layers import moe_layers, set_routing
from sfmoe_dg.models.moe.trace import routing_trace


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


def test_dropped_assignments_and_many_experts_show():
    m = model(num_experts=300, top_k=1)
    set_routing(m, capacity_ratio=0.5, group="image", rounding="floor")
    seen = []
    with torch.no_grad(), routing_trace(m, seen.append, layers=["blocks.0.mlp"]):
        for x in torch.randn(5, 3, 32, 32).split(2):
            m(x)
    assert [trace.shape for trace in seen] == [(2, 17), (2, 17), (1, 17)]
    assert {(trace.experts.dtype, trace.gates.dtype) for trace in seen} == {(np.dtype("u2"), np.dtype("f2"))}
    kept, gates = (np.concatenate([getattr(trace, name) for trace in seen]) for name in ("kept", "gates"))
    assert not kept.all()
    assert np.array_equal(kept, gates > 0)


def test_what_cannot_be_traced():
    with pytest.raises(UserError, match="no mixture-of-experts layer, so"), routing_trace(Mlp(2, 3), print):
        pass
    with pytest.raises(UserError, match=r"has blocks.0.mlp, blocks.2.mlp"), routing_trace(model(), print, layers=["x"]):
        pass
