"""Hybrid SF-MoE: timm's hybrid weights fit, and an upcycled model starts where the dense one is."""

import pytest
import timm
import torch
from safetensors.torch import save_file

import sfmoe_dg.models.backbones  # noqa: F401
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.models.backbones import build_backbone
from sfmoe_dg.models.moe.layers import moe_layers
from sfmoe_dg.models.weights.pretrained import load_pretrained

PAIRS = [
    ("hybrid_sf_moe_small_r26_s32_224", "vit_small_r26_s32_224", 50),
    ("hybrid_sf_moe_base_r50_s16_224", "vit_base_r50_s16_224", 197),
]


@pytest.mark.parametrize(("sparse", "dense", "tokens"), PAIRS)
def test_sizes_and_names_are_timm_s(sparse, dense, tokens):
    with torch.device("meta"):
        ours, theirs = timm.create_model(sparse, num_classes=5), timm.create_model(dense, num_classes=5)
    experts = {f"blocks.{i}.mlp" for i in (2, 5, 8, 11)}
    assert {name for name, _ in moe_layers(ours)} == experts
    assert ours.pos_embed.shape == theirs.pos_embed.shape == (1, tokens, ours.embed_dim)
    for key, value in theirs.state_dict().items():
        if key.rpartition(".mlp")[0] + ".mlp" not in experts:
            assert ours.state_dict()[key].shape == value.shape
    # Six experts of 2·4·D² + 5·D and a router of 6·D, in four blocks, each in the place of one such FFN.
    width = ours.embed_dim
    extra = 4 * (5 * (8 * width**2 + 5 * width) + 6 * width)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters()) + extra


def test_a_dense_timm_hybrid_is_upcycled_exactly(tmp_path):
    torch.manual_seed(0)
    dense = timm.create_model("vit_small_r26_s32_224", num_classes=5).eval()
    save_file(dense.state_dict(), tmp_path / "dense.safetensors")
    model = timm.create_model("hybrid_sf_moe_small_r26_s32_224", num_classes=5)
    load_pretrained(model, tmp_path / "dense.safetensors", "hybrid")
    model.eval()
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(model(x), dense(x), rtol=1e-4, atol=1e-5)


def test_every_key_is_accounted_for(tmp_path):
    dense = timm.create_model("vit_small_r26_s32_224", num_classes=5)
    state = dense.state_dict()
    state.pop("patch_embed.backbone.stem.conv.weight")
    state["surplus"] = torch.zeros(1)
    save_file(state, tmp_path / "dense.safetensors")
    model = timm.create_model("hybrid_sf_moe_small_r26_s32_224", num_classes=5)
    with pytest.raises(UserError, match=r"1 missing: patch_embed.backbone.stem.conv.weight; 1 left over: surplus"):
        load_pretrained(model, tmp_path / "dense.safetensors", "hybrid")


def test_normalization_is_the_weights_own():
    hparams = {"backbone": "hybrid_sf_moe_small_r26_s32_224", "pretrained": False}
    featurizer = build_backbone((3, 224, 224), hparams)
    assert featurizer.normalization == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert featurizer.n_outputs == 384


@pytest.mark.parametrize("size", [28, 32])
@pytest.mark.parametrize("channels", [1, 3])
def test_tiny(size, channels):
    hparams = {"backbone": "hybrid_sf_moe_tiny_32", "pretrained": True}
    featurizer = build_backbone((channels, size, size), hparams)
    features, losses = featurizer.forward_with_losses(torch.randn(2, channels, size, size))
    assert features.shape == (2, 64)
    assert losses["balance"] > 0
    assert [name for name, _ in moe_layers(featurizer)] == ["network.blocks.1.mlp", "network.blocks.3.mlp"]
    (features.square().sum() + losses["balance"]).backward()
    assert all(p.grad is not None for p in featurizer.parameters())


def test_the_other_june_setting():
    with torch.device("meta"):
        model = timm.create_model("hybrid_sf_moe_small_r26_s32_224", moe_layers=(5, 11))
    assert model.moe_layers == (5, 11)
