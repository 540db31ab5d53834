"""SF-MoE and GMoE: sizes, timm's interface, dense equivalence, robustness."""

from __future__ import annotations

import copy
import os

import pytest
import timm
import torch
import torch.nn.functional as F
from tiny_twins import TINY_TWINS
from torch import nn

import sfmoe_dg.models.backbones
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.models.architectures.vision_transformer import MoEBlock
from sfmoe_dg.models.moe.layers import moe_layers, routing_set


def tiny(name: str = "sf_moe_tiny_32", seed: int = 0, **kwargs) -> nn.Module:
    torch.manual_seed(seed)
    return timm.create_model(name, num_classes=5, **kwargs)


@pytest.mark.parametrize(
    ("name", "kwargs", "sparse", "millions"),
    [
        # DeiT-S has 22,050,664 parameters. A sparse block adds 5 * (2*384*1536 + 1536 + 384) and a router of 384 * 6.
        ("sf_moe_small_patch16_224", {}, (0, 2, 4, 6, 8, 10), 22_050_664 + 6 * (5 * 1_181_568 + 2304)),
        ("sf_moe_small_patch16_224", {"moe_layers": "every-3"}, (2, 5, 8, 11), 22_050_664 + 4 * (5 * 1_181_568 + 2304)),
        ("sf_moe_base_patch16_224", {}, (0, 2, 4, 6, 8, 10), 86_567_656 + 6 * (5 * 4_722_432 + 768 * 6)),
        # The cosine router: 384*256 + 256, six embeddings of 256, one temperature.
        ("g_moe_small_patch16_224", {}, (8, 10), 22_050_664 + 2 * (5 * 1_181_568 + 98_560 + 1536 + 1)),
        ("sf_moe_small_patch16_224", {"moe_layers": "F*12"}, (), 22_050_664),
    ],
)
def test_parameter_counts(name, kwargs, sparse, millions):
    with torch.device("meta"):
        model = timm.create_model(name, **kwargs)
    assert model.moe_layers == sparse
    assert sum(p.numel() for p in model.parameters()) == millions


def test_presets():
    with torch.device("meta"):
        sf = timm.create_model("sf_moe_small_patch16_224")
        g = timm.create_model("g_moe_small_patch16_224")
    options = sf.blocks[0].mlp.options
    assert (options.num_experts, options.top_k, options.renormalize, options.noise) == (6, 2, True, 0.0)
    assert options.losses == (("balance", 0.01),)
    options = g.blocks[8].mlp.options
    assert (options.num_experts, options.top_k, options.renormalize, options.noise) == (6, 1, False, 1.0)
    assert options.losses == (("importance", 0.005), ("load", 0.005))
    assert g.blocks[8].mlp.experts.drop.p == 0.1
    assert g.blocks[11].drop_path1.drop_prob == pytest.approx(0.1)
    for model in (sf, g):
        assert all(layer.options.eval_capacity_ratio is None for _, layer in moe_layers(model))


def test_meta_device_runs_forward():
    with torch.device("meta"):
        model = timm.create_model("sf_moe_small_patch16_224")
        assert model(torch.empty(2, 3, 224, 224)).shape == (2, 1000)


@pytest.mark.parametrize("name", TINY_TWINS)
@pytest.mark.parametrize(("size", "channels"), [(28, 1), (28, 2), (32, 3), (40, 3)])
def test_tiny_models_take_small_pictures(name, size, channels):
    model = timm.create_model(name, num_classes=4, in_chans=channels, img_size=size)
    x = torch.randn(2, channels, size, size)
    y, losses = model.forward_with_losses(x)
    assert y.shape == (2, 4)
    (y.sum() + sum(losses.values())).backward()
    used = {n for n, p in model.named_parameters() if p.grad is None}
    assert not used


@pytest.mark.parametrize("name", TINY_TWINS)
def test_timms_interface(name):
    model = tiny(name).eval()
    x = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        y = model(x)
        torch.testing.assert_close(model.forward_head(model.forward_features(x)), y)
        torch.testing.assert_close(model.forward_with_losses(x)[0], y)
        final, intermediates = model.forward_intermediates(x, indices=[0, 3])
        torch.testing.assert_close(final, model.forward_features(x))
        assert [tuple(i.shape) for i in intermediates] == [(3, 64, 4, 4)] * 2
        features = tiny(name, features_only=True)(x)
        assert features[-1].shape == (3, 64, 4, 4)
    model.reset_classifier(0)
    assert model(x).shape == (3, 64)


def test_losses_are_returned_and_nothing_is_kept():
    model = tiny()
    before = {k: set(vars(m)) for k, m in model.named_modules()}
    x = torch.randn(2, 3, 32, 32)
    _, losses = model.forward_with_losses(x)
    one = [m(torch.randn(2, 17, 64))[1].losses["balance"] for _, m in moe_layers(model)]
    assert set(losses) == {"balance"}
    assert losses["balance"].shape == ()
    assert 0 < losses["balance"] < 10 * sum(one)
    assert before == {k: set(vars(m)) for k, m in model.named_modules()}
    assert not any(torch.is_tensor(v) for m in model.modules() for v in vars(m).values())


def test_block_returns_its_routing():
    block = tiny().blocks[0]
    assert isinstance(block, MoEBlock)
    x = torch.randn(2, 17, 64)
    y, routing = block.forward_routed(x)
    torch.testing.assert_close(block(x), y)
    assert routing.experts_TK.shape == (34, 2)


def test_fresh_sf_moe_equals_its_dense_twin():
    """Experts that start identical and gates that sum to one: the dense network, whatever the router says."""
    model = tiny().eval()
    dense = tiny("vit_tiny_32").eval()
    state = {k: v for k, v in model.state_dict().items() if ".router." not in k}
    for key in list(state):
        if ".experts." in key:
            value = state.pop(key)[0]
            state[key.replace(".experts", "")] = value.T if value.ndim == 2 else value
    dense.load_state_dict(state)
    x = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(model(x), dense(x), rtol=1e-4, atol=1e-5)


def test_evaluation_is_deterministic_and_per_image():
    model = tiny("g_moe_tiny_32", routing_options={"noise": 1.0}, capacity_ratio=0.5).eval().double()
    x = torch.randn(6, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        y = model(x)
        torch.testing.assert_close(model(x), y, rtol=0, atol=0)
        torch.testing.assert_close(torch.cat([model(one) for one in x.split(1)]), y, rtol=1e-10, atol=1e-12)
        with routing_set(model, capacity_ratio=0.25):
            assert not torch.allclose(model(x), y)
        torch.testing.assert_close(model(x), y, rtol=0, atol=0)


def test_keyword_arguments():
    model = timm.create_model(
        "sf_moe_tiny_32",
        num_experts=8,
        top_k=3,
        moe_layers=[1],
        capacity_ratio=1.25,
        allocation="batch_priority",
        router="cosine",
        routing_loss_weight=0.5,
        routing_options={"group": "image"},
    )
    ((name, layer),) = moe_layers(model)
    assert name == "blocks.1.mlp"
    options = layer.options
    assert (options.num_experts, options.top_k, options.capacity_ratio) == (8, 3, 1.25)
    assert options.allocation == "batch_priority"
    assert options.group == "image"
    assert options.renormalize  # the architecture's own option stays
    assert options.losses == (("balance", 0.5),)
    model.set_routing(k=1)
    assert layer.options.top_k == 1
    with pytest.raises(UserError, match="did you mean batch_priority"):
        timm.create_model("sf_moe_tiny_32", allocation="batch_priorty")


@pytest.mark.parametrize("name", TINY_TWINS)
def test_state_dict_and_deepcopy(name):
    model = tiny(name).eval()
    other = tiny(name, seed=1).eval()
    other.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 32, 32)
    for twin in (other, copy.deepcopy(model)):
        assert torch.equal(twin(x), model(x))


@pytest.mark.parametrize("name", TINY_TWINS)
def test_channels_last_and_half_precision(name):
    model = tiny(name).eval()
    x = torch.randn(2, 3, 32, 32)
    y = model(x)
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    torch.testing.assert_close(last(x.to(memory_format=torch.channels_last)), y, rtol=1e-4, atol=1e-5)
    for dtype in (torch.bfloat16, torch.float16):
        low = copy.deepcopy(model).to(dtype)(x.to(dtype))
        assert low.dtype == dtype
        torch.testing.assert_close(low.float(), y, rtol=0.1, atol=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z, losses = model.train().forward_with_losses(x)
        (z.sum() + sum(losses.values())).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_gradient_checkpointing_changes_nothing():
    x = torch.randn(2, 3, 32, 32)
    grads = []
    for recompute in (False, True):
        model = tiny("g_moe_tiny_32")
        model.set_grad_checkpointing(recompute)
        torch.manual_seed(1)
        y, losses = model.forward_with_losses(x)
        (y.sum() + 100 * sum(losses.values())).backward()
        grads.append([p.grad for p in model.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.slow
def test_compiled_in_evaluation():
    model = tiny().eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        compiled = torch.compile(model, backend="eager")
        torch.testing.assert_close(compiled(x), model(x))
        torch.testing.assert_close(compiled(x[:1]), model(x[:1]))


@pytest.mark.parametrize("name", TINY_TWINS)
def test_learns_a_few_pictures(name):
    torch.manual_seed(0)
    model = tiny(name)
    x, y = torch.randn(20, 3, 32, 32), torch.arange(20) % 5
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    first = None
    for _ in range(25):
        z, losses = model.forward_with_losses(x)
        loss = F.cross_entropy(z, y) + sum(losses.values())
        first = first or loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.7 * first


class WithLosses(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, losses = self.model.forward_with_losses(x)
        return y.square().mean() + sum(losses.values())


def ddp_worker(rank: int, port: int, path: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    assert sfmoe_dg.models
    model = tiny(routing_options={"group": "image"})
    parallel = nn.parallel.DistributedDataParallel(WithLosses(model))
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    parallel(x[2 * rank : 2 * rank + 2]).backward()
    if rank == 0:
        torch.save({n: p.grad for n, p in model.named_parameters()}, path)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one(tmp_path):
    path = str(tmp_path / "grads.pt")
    port = 20000 + os.getpid() % 20000
    torch.multiprocessing.spawn(ddp_worker, args=(port, path), nprocs=2)
    model = tiny(routing_options={"group": "image"})  # losses per image, so that they do not depend on the split
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    WithLosses(model)(x).backward()
    grads = torch.load(path, weights_only=True)
    for name, p in model.named_parameters():
        torch.testing.assert_close(grads[name], p.grad, rtol=1e-4, atol=1e-6)
