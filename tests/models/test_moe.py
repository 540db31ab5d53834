"""MoE layers against a ten-line reference, forward and backward, and the invariants of upcycling."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import Mlp

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.models.moe import dispatch
from sfmoe_dg.models.moe.layers import (
    FFNExperts,
    LinearExperts,
    MoE,
    ffn_moe,
    moe_layers,
    routing_set,
    set_routing,
    total_losses,
)
from sfmoe_dg.models.moe.routers import LinearRouter
from sfmoe_dg.models.moe.routing import RoutingOptions


def distinct(moe: MoE, seed: int = 0) -> MoE:
    """Give every expert its own weights, so that a mix-up changes the output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in moe.experts.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) * 0.3)
    return moe


def reference(moe: MoE, x_TD: torch.Tensor, gates_TK: torch.Tensor, experts_TK: torch.Tensor) -> torch.Tensor:
    """A plain reference: every expert computes every token."""
    e = moe.experts
    out = x_TD * 0
    for t in range(len(x_TD)):
        for k in range(experts_TK.shape[1]):
            i = experts_TK[t, k]
            hidden = F.gelu(x_TD[t] @ e.fc1.weight[i] + e.fc1.bias[i])
            out[t] += gates_TK[t, k] * (hidden @ e.fc2.weight[i] + e.fc2.bias[i])
    return out


@st.composite
def layers(draw):
    num_experts = draw(st.integers(1, 7))
    top_k = draw(st.integers(1, num_experts))
    ratio = draw(st.sampled_from([None, None, 0.5, 1.0]))
    group = draw(st.sampled_from(["batch", "image", 2]))
    allocation = draw(st.sampled_from(["vanilla", "batch_priority"]))
    options = RoutingOptions(num_experts, top_k, eval_capacity_ratio=ratio, group=group, allocation=allocation)
    shape = (draw(st.integers(0, 3)), draw(st.integers(1, 6)))
    torch.manual_seed(draw(st.integers(0, 2**31)))
    moe = distinct(ffn_moe(3, 5, options=options).double()).eval()
    if draw(st.booleans()):  # most experts get nothing
        moe.router.weight.data *= 50
    return moe, torch.randn(*shape, 3, dtype=torch.float64)


@settings(max_examples=50, deadline=None)
@given(layers())
def test_layer_equals_the_reference_with_its_gradients(case):
    moe, x = case
    x = x.requires_grad_()
    y, routing = moe(x)
    expected = reference(moe, x.reshape(-1, 3), routing.gates_TK, routing.experts_TK).view_as(x)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-12)
    upstream = torch.randn_like(y)
    inputs = [x, *moe.parameters()]
    found = torch.autograd.grad(y, inputs, upstream, retain_graph=True, allow_unused=True)
    wanted = torch.autograd.grad(expected, inputs, upstream, allow_unused=True)
    for f, w in zip(found, wanted, strict=True):
        torch.testing.assert_close(f, torch.zeros_like(f) if w is None else w, rtol=1e-9, atol=1e-11)


@settings(max_examples=30, deadline=None)
@given(layers())
def test_grouped_gemm_path_equals_the_split_path(case):
    """The path of bf16 on CUDA, run on the CPU in float32: empty experts, dropped rows, no rows written for them."""
    moe, x = case
    if not x.numel():
        return
    moe = distinct(ffn_moe(8, 16, options=moe.options)).eval()
    x = torch.randn(*x.shape[:2], 8)
    results = []
    for fast in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dispatch, "fast_grouped_gemm", lambda x, w, fast=fast: fast)
            moe.zero_grad()
            leaf = x.clone().requires_grad_()
            moe(leaf)[0].square().sum().backward()
            results.append([leaf.grad, *(p.grad for p in moe.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ratio", [None, 0.5])
def test_gradients_of_gradients(ratio):
    """Gradient penalties (IGA, IRM) differentiate through the layer twice."""
    torch.manual_seed(0)
    moe = distinct(ffn_moe(3, 4, options=RoutingOptions(3, 2, eval_capacity_ratio=ratio)).double()).eval()
    x = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    weight = moe.experts.fc1.weight
    assert torch.autograd.gradcheck(lambda x, _: moe(x)[0], (x, weight))
    assert torch.autograd.gradgradcheck(lambda x, _: moe(x)[0], (x, weight))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.data())
def test_upcycled_layer_equals_the_dense_one_times_the_kept_gates(num_experts, data):
    top_k = data.draw(st.integers(1, num_experts))
    renormalize = data.draw(st.booleans())
    ratio = data.draw(st.sampled_from([None, 0.5]))
    torch.manual_seed(data.draw(st.integers(0, 2**31)))
    dense = Mlp(4, 8).double()
    options = RoutingOptions(num_experts, top_k, renormalize=renormalize, eval_capacity_ratio=ratio)
    moe = ffn_moe(4, 8, options=options).double().eval()
    with torch.no_grad():
        for name in ("fc1", "fc2"):
            getattr(moe.experts, name).weight.copy_(getattr(dense, name).weight.T.expand(num_experts, -1, -1))
            getattr(moe.experts, name).bias.copy_(torch.randn(getattr(dense, name).bias.shape).expand(num_experts, -1))
            getattr(dense, name).bias.copy_(getattr(moe.experts, name).bias[0])
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    y, routing = moe(x)
    total = routing.gates_TK.sum(1).view(2, 5, 1)
    torch.testing.assert_close(y, total * dense(x), rtol=1e-9, atol=1e-12)
    if renormalize and ratio is None:
        torch.testing.assert_close(y, dense(x), rtol=1e-9, atol=1e-12)


def test_evaluation_does_not_depend_on_the_rest_of_the_batch():
    torch.manual_seed(0)
    moe = distinct(ffn_moe(6, 12, options=RoutingOptions(4, 2, capacity_ratio=0.5)).double()).eval()
    x = torch.randn(8, 7, 6, dtype=torch.float64)
    whole = moe(x)[0]
    torch.testing.assert_close(torch.cat([moe(one)[0] for one in x.split(1)]), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(moe(x.flip(0))[0].flip(0), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(moe(x)[0], whole, rtol=0, atol=0)


def test_one_token_and_none():
    moe = distinct(ffn_moe(3, 4, options=RoutingOptions(5, 2, losses=(("balance", 1.0),))))
    assert moe(torch.randn(1, 3))[0].shape == (1, 3)
    x = torch.zeros(0, 7, 3, requires_grad=True)
    y, routing = moe(x)
    assert y.shape == (0, 7, 3)
    (y.sum() + routing.losses["balance"]).backward()
    assert all(p.grad is not None and not p.grad.any() for p in moe.experts.parameters())


def test_experts_start_identical_and_with_zero_biases():
    experts = FFNExperts(4, 6, 12)
    for layer in (experts.fc1, experts.fc2):
        assert torch.equal(layer.weight[0].expand_as(layer.weight), layer.weight)
        assert not layer.bias.any()
        assert 0.01 < layer.weight.std() < 0.03


def test_experts_of_one_linear_layer_each():
    torch.manual_seed(0)
    moe = distinct(MoE(LinearExperts(3, 4, 7), LinearRouter(4, 3), RoutingOptions(3, 2, renormalize=True))).double()
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    y, routing = moe(x)
    assert y.shape == (2, 5, 7)
    full = torch.einsum("tkd,edf->tkef", x.view(10, 1, 4).expand(10, 2, 4), moe.experts.weight) + moe.experts.bias
    chosen = full.gather(2, routing.experts_TK[:, :, None, None].expand(-1, -1, 1, 7)).squeeze(2)
    torch.testing.assert_close(y.view(10, 7), (chosen * routing.gates_TK[..., None]).sum(1))


def test_bfloat16_and_autocast_stay_close():
    torch.manual_seed(0)
    moe = distinct(ffn_moe(8, 16, options=RoutingOptions(3, 2, renormalize=True)))
    x = torch.randn(2, 5, 8)
    y = moe(x)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half, routing = moe(x)
    assert half.dtype == torch.bfloat16
    assert routing.gates_TK.dtype == torch.float32
    torch.testing.assert_close(half.float(), y, rtol=0.05, atol=0.05)
    half.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in moe.parameters())
    low = copy.deepcopy(moe).bfloat16()
    z, routing = low(x.bfloat16())
    assert z.dtype == torch.bfloat16
    assert routing.gates_TK.dtype == torch.float32


def test_routing_is_set_and_restored():
    moe = ffn_moe(3, 4, options=RoutingOptions(4, 2, capacity_ratio=1.5))
    set_routing(moe, k=1, capacity_ratio=0.5, allocation="batch_priority")
    assert (moe.options.top_k, moe.options.allocation) == (1, "batch_priority")
    assert moe.options.capacity_ratio == moe.options.eval_capacity_ratio == 0.5
    set_routing(moe, capacity_ratio=None)
    assert moe.options.ratio(True) is moe.options.ratio(False) is None
    assert moe.options.top_k == 1
    before = moe.options
    with contextlib.suppress(ZeroDivisionError), routing_set(moe, k=3, noise=0.5):
        assert moe.options.noise == 0.5
        raise ZeroDivisionError
    assert moe.options is before
    with pytest.raises(UserError, match="top_k is 9"):
        set_routing(moe, k=9)
    assert moe.options is before


def test_dense_models_have_no_routing_to_set():
    with pytest.raises(UserError, match="no mixture-of-experts layer"):
        set_routing(Mlp(3, 4), k=1)
    assert moe_layers(Mlp(3, 4)) == []


def test_a_layer_called_twice_counts_twice():
    moe = ffn_moe(3, 4, options=RoutingOptions(4, 2, losses=(("balance", 1.0),)))
    routing = moe(torch.randn(2, 3, 3))[1]
    assert total_losses([routing, routing])["balance"].item() == pytest.approx(2 * routing.losses["balance"].item())
    assert total_losses([]) == {}


def test_unknown_router():
    with pytest.raises(UserError, match="did you mean cosine"):
        ffn_moe(3, 4, options=RoutingOptions(4), router="cosin")


@pytest.mark.gpu
@pytest.mark.parametrize("ratio", [None, 0.5])
def test_bfloat16_on_cuda_equals_float32_on_the_cpu(ratio):
    """Grouped GEMM, with empty experts and dropped rows."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    torch.manual_seed(0)
    options = RoutingOptions(6, 2, eval_capacity_ratio=ratio)
    moe = distinct(ffn_moe(64, 128, options=options)).eval()
    moe.router.weight.data[3:] -= 10 * moe.router.weight.data[3:].sign()
    x = torch.rand(4, 9, 64) * 0.1
    gpu = copy.deepcopy(moe).cuda()
    y, routing = moe(x)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        z, fast = gpu(x.cuda())
    assert torch.equal(fast.experts_TK.cpu(), routing.experts_TK)
    torch.testing.assert_close(z.float().cpu(), y, rtol=0.05, atol=0.05)
    y.square().sum().backward()
    z.float().square().sum().backward()
    for a, b in zip(moe.parameters(), gpu.parameters(), strict=True):
        scale = float(a.grad.abs().max()) + 1e-6
        torch.testing.assert_close(b.grad.cpu() / scale, a.grad / scale, rtol=0.05, atol=0.05)
