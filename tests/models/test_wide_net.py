"""WideNet: shared weights, layers that are counted L times, and the paper's parameter counts."""

import copy

import pytest
import timm
import torch
from timm.models.vision_transformer import Attention
from torch import nn

import sfmoe_dg.models.backbones  # noqa: F401
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.models.moe.layers import FFNExperts, MoE, moe_layers
from sfmoe_dg.models.moe.routers import LinearRouter
from sfmoe_dg.models.weights.pretrained import load_pretrained


def count(name, **kwargs):
    with torch.device("meta"):
        return sum(p.numel() for p in timm.create_model(name, **kwargs).parameters())


def tiny(**kwargs):
    torch.manual_seed(0)
    return timm.create_model("wide_net_tiny_32", num_classes=5, **kwargs)


def pictures(batch=3):
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def number_of(model, kind):
    return sum(isinstance(m, kind) for m in model.modules())


@pytest.mark.parametrize(
    ("size", "kwargs", "expected"),
    [
        ("base", {}, 29_691_369),
        ("large", {}, 40_942_569),
        ("huge", {}, 63_343_081),
        ("huge", {"patch_size": 14}, 63_189_481),
    ],
)
def test_parameters_of_the_official_models(size, kwargs, expected):
    assert count(f"wide_net_{size}_patch16_224", num_classes=1001, **kwargs) == expected


@pytest.mark.parametrize(("size", "difference"), [("base", 33_792), ("large", 94_208), ("huge", 158_720)])
def test_parameters_saved_by_sharing_layer_norms(size, difference):
    name = f"wide_net_{size}_patch16_224"
    assert count(name) - count(name, shared_norms=True) == difference


@pytest.mark.parametrize(
    ("size", "vit", "vit_moe"), [("base", 87_157_480, 128_089_320), ("large", 305_375_208, 406_116_328)]
)
def test_parameters_without_sharing(size, vit, vit_moe):
    name = f"wide_net_{size}_patch16_224"
    assert count(name, share_every=1, moe_layers=()) == vit
    assert count(name, share_every=1, moe_layers="every-6") == vit_moe


def test_one_attention_one_router_one_set_of_experts_and_own_norms():
    model = tiny()
    assert [number_of(model, kind) for kind in (Attention, MoE, LinearRouter, FFNExperts)] == [1, 1, 1, 1]
    # Two per block, four blocks, and the last one.
    assert number_of(model, nn.LayerNorm) == 9
    assert len({id(block.attn) for block in model.blocks}) == 1
    assert len({id(block.mlp) for block in model.blocks}) == 1


def test_ablations():
    assert number_of(tiny(shared_norms=True), nn.LayerNorm) == 3
    groups = tiny(share_every=2)
    assert [number_of(groups, kind) for kind in (Attention, MoE)] == [2, 2]
    assert groups.blocks[0].mlp is groups.blocks[1].mlp is not groups.blocks[2].mlp
    dense = tiny(moe_layers=())
    assert [number_of(dense, kind) for kind in (Attention, MoE)] == [1, 0]
    assert dense.forward_with_losses(pictures())[1] == {}
    alone = tiny(share_every=1)
    assert [number_of(alone, kind) for kind in (Attention, MoE)] == [4, 4]
    mixed = tiny(moe_layers="[S,F]x2")
    assert [number_of(mixed, kind) for kind in (Attention, MoE)] == [1, 1]
    assert mixed.blocks[1].mlp is mixed.blocks[3].mlp is not mixed.blocks[0].mlp


@pytest.mark.parametrize("value", [0, -1, 2.0, "all"])
def test_share_every_is_checked(value):
    with pytest.raises(UserError, match="share_every"):
        tiny(share_every=value)


def test_balance_loss_is_one_per_call_at_uniform_routing():
    model = tiny(routing_loss_weight=1.0, routing_options={"noise": 0.0})
    nn.init.zeros_(model.shared[0].moe.router.weight)
    _, losses = model.forward_with_losses(pictures())
    # P_i = 1/4, and m sums to 1 whoever is chosen: 4 · Σ m_i / 4 = 1 for each of four blocks.
    assert losses["assignments"].item() == pytest.approx(4.0)


def test_losses_are_counted_once_per_call():
    model = tiny().eval()
    seen = []
    ((_, layer),) = moe_layers(model)
    layer.register_forward_hook(lambda module, inputs, output: seen.append(output[1].losses["assignments"]))
    _, losses = model.forward_with_losses(pictures())
    assert len(seen) == 4
    torch.testing.assert_close(losses["assignments"], torch.stack(seen).sum())


def test_the_paper_s_buffer():
    model = tiny(capacity_ratio=1.2, allocation="token_order")
    ((_, layer),) = moe_layers(model)
    seen = []
    layer.register_forward_hook(lambda module, inputs, output: seen.append(output[1]))
    model(pictures())
    # int(C · K · tokens / E) = int(1.2 · 2 · 3 · 17 / 4) = int(30.6)
    for routing in seen:
        kept = torch.bincount(routing.experts_TK[routing.kept_TK], minlength=4)
        wanted = torch.bincount(routing.experts_TK.flatten(), minlength=4)
        assert kept.tolist() == wanted.clamp(max=30).tolist()


def test_state_dict_has_every_tensor_once_and_round_trips(tmp_path):
    model, other = tiny(), timm.create_model("wide_net_tiny_32", num_classes=5)
    state = model.state_dict()
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)
    other.load_state_dict(state)
    torch.testing.assert_close(other.eval()(pictures()), model.eval()(pictures()), rtol=0, atol=0)
    torch.save(state, tmp_path / "w.pth")
    third = timm.create_model("wide_net_tiny_32", num_classes=5)
    load_pretrained(third, tmp_path / "w.pth", "wide_net_tiny_32")
    torch.testing.assert_close(third.eval()(pictures()), model.eval()(pictures()), rtol=0, atol=0)


def test_a_copy_shares_among_itself_and_not_with_the_original():
    model = tiny().eval()
    copied = copy.deepcopy(model)
    assert copied.blocks[0].attn is copied.blocks[3].attn is copied.shared[0].attn
    assert copied.blocks[0].attn is not model.blocks[0].attn
    before = model(pictures())
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert torch.equal(model(pictures()), before)


def test_class_token_is_a_constant_zero():
    model = tiny()
    model.init_weights()
    assert not model.cls_token.any()
    assert "cls_token" not in dict(model.named_parameters())
    assert isinstance(tiny(learned_class_token=True).cls_token, nn.Parameter)


def test_gelu_after_both_layers_is_an_option():
    assert isinstance(tiny(expert_final_act=True).shared[0].moe.experts.final_act, nn.GELU)
    assert isinstance(tiny().shared[0].moe.experts.final_act, nn.Identity)


def test_timm_interface():
    model = tiny().eval()
    x = pictures()
    tokens = model.forward_features(x)
    features = model.forward_head(tokens, pre_logits=True)
    assert tokens.shape == (3, 17, 64)
    assert features.abs().max() <= 1
    torch.testing.assert_close(model.head(features), model(x))
    last, layers = model.forward_intermediates(x, indices=2)
    torch.testing.assert_close(last, tokens)
    assert [layer.shape for layer in layers] == [(3, 64, 4, 4)] * 2
    narrow = tiny(representation_size=10)
    narrow.reset_classifier(0)
    assert narrow(x).shape == (3, 10)
    assert narrow.head_hidden_size == 10
    assert tiny(representation_size=0)(x).shape == (3, 5)


def test_gradients_reach_every_parameter_also_when_recomputed():
    grads = []
    for recompute in (False, True):
        model = tiny(routing_options={"noise": 0.0})
        model.set_grad_checkpointing(recompute)
        logits, losses = model.forward_with_losses(pictures())
        (logits.square().sum() + sum(losses.values())).backward()
        assert all(p.grad is not None and p.grad.any() for p in model.parameters())
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(*grads)


def test_routing_can_be_changed_on_a_built_model():
    model = tiny().eval()
    before = model(pictures())
    model.set_routing(k=4)
    assert not torch.allclose(model(pictures()), before)
