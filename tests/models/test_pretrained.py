"""Weights from files and from the hub: upcycled, with every tensor accounted for, or refused in one sentence."""

from __future__ import annotations

import time

import pytest
import timm
import torch
from safetensors.torch import save_file

import sfmoe_dg.models.backbones
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.torch_files import load_torch
from sfmoe_dg.models.backbones import build_backbone
from sfmoe_dg.models.weights import pretrained
from sfmoe_dg.models.weights.pretrained import load_pretrained, read_state_dict
from sfmoe_dg.training.model_file import load_model

SMALL = {"img_size": 32, "embed_dim": 24, "num_heads": 2, "depth": 4}
SPARSE = {**SMALL, "moe_layers": "[S,F]x2"}


@pytest.fixture
def dense():
    assert sfmoe_dg.models
    torch.manual_seed(0)
    model = timm.create_model("deit_small_patch16_224", num_classes=10, **SMALL).eval()
    for p in model.parameters():  # biases start at zero; here they must show if they are forgotten
        p.data += 0.1 * torch.randn_like(p)
    return model


@pytest.fixture
def weights(dense, tmp_path):
    path = tmp_path / "dense.safetensors"
    save_file(dense.state_dict(), path)
    return path


def sparse(**kwargs):
    return timm.create_model("sf_moe_small_patch16_224", **{**SPARSE, "num_classes": 10, **kwargs}).eval()


@pytest.mark.parametrize("kind", ["safetensors", "pth", "pth of DeiT"])
def test_upcycled_model_equals_the_dense_one(dense, tmp_path, kind):
    state = dense.state_dict()
    path = tmp_path / f"w.{kind[:3] if kind != 'safetensors' else kind}"
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save({"model": state} if "DeiT" in kind else state, path)
    model = sparse()
    router = model.blocks[0].mlp.router.weight.clone()
    load_pretrained(model, path, "sf_moe")
    x = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(model(x), dense(x), rtol=1e-4, atol=1e-5)
    model.set_routing(k=6)
    torch.testing.assert_close(model(x), dense(x), rtol=1e-4, atol=1e-5)
    assert torch.equal(model.blocks[0].mlp.router.weight, router)
    experts = model.blocks[2].mlp.experts
    for e in range(6):
        assert torch.equal(experts.fc1.weight[e], dense.blocks[2].mlp.fc1.weight.T)
        assert torch.equal(experts.fc1.bias[e], dense.blocks[2].mlp.fc1.bias)
        assert torch.equal(experts.fc2.bias[e], dense.blocks[2].mlp.fc2.bias)
    experts.fc1.weight.data[0].zero_()  # experts do not share memory
    assert experts.fc1.weight[1].any()


def test_sparse_weights_load_as_they_are(tmp_path):
    model = sparse()
    path = tmp_path / "sparse.safetensors"
    save_file(model.state_dict(), path)
    other = sparse()
    load_pretrained(other, path, "sf_moe")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    with pytest.raises(UserError, match=r"2 of another shape|\d+ of another shape: .*experts"):
        load_pretrained(sparse(num_experts=3), path, "sf_moe")


def test_other_head_and_other_channels_and_other_size(weights):
    model = sparse(num_classes=3, in_chans=1, img_size=48)
    head = model.head.weight.clone()
    load_pretrained(model, weights, "sf_moe")
    assert torch.equal(model.head.weight, head)
    expected = read_state_dict(weights)["patch_embed.proj.weight"].sum(1, keepdim=True)
    torch.testing.assert_close(model.patch_embed.proj.weight.data, expected)
    assert model.pos_embed.shape[1] == 10
    load_pretrained(sparse(num_classes=0), weights, "sf_moe")


def test_every_key_is_accounted_for(weights, tmp_path):
    state = read_state_dict(weights)
    del state["blocks.0.mlp.fc1.bias"], state["norm.weight"]
    state["surprise"] = torch.zeros(1)
    state["blocks.1.norm1.weight"] = torch.zeros(5)
    path = tmp_path / "wrong.safetensors"
    save_file(state, path)
    model = sparse()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_pretrained(model, path, "sf_moe")
    message = str(caught.value)
    assert "2 missing: norm.weight, blocks.0.mlp.experts.fc1.bias" in message or (
        "2 missing: " in message and "norm.weight" in message and "blocks.0.mlp.experts.fc1.bias" in message
    )
    assert "1 left over: surprise" in message
    assert "1 of another shape: blocks.1.norm1.weight (5,) for (24,)" in message
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.pth", None, "is not a file"),
        ("junk.pth", b"junk", "cannot be read"),
        ("junk.safetensors", b"junk", "cannot be read"),
        ("list.pth", [1, 2], "not a dictionary of tensors"),
        ("code.pth", {"a": ValueError("not a tensor")}, "cannot be read"),
    ],
)
def test_files_that_are_refused(tmp_path, name, content, message):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match=message) as caught:
        load_pretrained(sparse(), path, "sf_moe")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"\x80\x02.", id="stop on an empty stack"),
        pytest.param(b"\x80\x02h\x05.", id="memo that was never written"),
        pytest.param(b"\x80\x02K\x01K\x02a.", id="append to a number"),
        pytest.param(b"\x80\x02J\x01", id="number that is cut short"),
        pytest.param(b"\x80\x02K\x01Q.", id="persistent id that is none"),
    ],
)
def test_bytes_that_are_no_torch_file_are_a_value_error(tmp_path, content):
    (tmp_path / "model.pkl").write_bytes(content)
    with pytest.raises(ValueError, match="it is no torch file"):
        load_torch(tmp_path / "model.pkl")
    with pytest.raises(UserError, match="cannot be read as a model"):
        load_model(tmp_path)


def test_what_a_filter_of_ours_says_is_not_said_of_another(tmp_path):
    """V-MoE's refusal of a grid that is not square."""
    state = timm.create_model("v_moe_tiny_32", num_classes=10).state_dict()
    state["pos_embed"] = torch.zeros(1, 1 + 15, 64)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"^a position embedding of 16 tokens"):
        load_pretrained(timm.create_model("v_moe_tiny_32", num_classes=10), tmp_path / "w.safetensors", "v_moe")


def test_offline_it_fails_quickly_and_says_what_to_do(monkeypatch, tmp_path):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        build_backbone((3, 224, 224), {"backbone": "deit_small_patch16_224", "pretrained": True})
    assert time.monotonic() - start < 6
    message = str(caught.value)
    assert "timm/deit_small_patch16_224.fb_in1k" in message
    assert '{"pretrained": "path.safetensors"}' in message
    assert '{"pretrained": false}' in message
    with pytest.raises(UserError, match="cannot be reached"):
        timm.create_model("sf_moe_small_patch16_224", pretrained=True)


def test_a_cached_file_needs_no_network(monkeypatch, dense, weights):
    import huggingface_hub

    asked = []

    def cached(repo, filename, revision=None):
        asked.append((repo, filename))
        return str(weights)

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    monkeypatch.setattr(pretrained, "_answers", lambda endpoint: pytest.fail("asked the network"))
    model = timm.create_model("sf_moe_small_patch16_224", pretrained=True, **SPARSE, num_classes=10).eval()
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model(x), dense(x), rtol=1e-4, atol=1e-5)
    assert asked == [("timm/deit_small_patch16_224.fb_in1k", "model.safetensors")]


def test_timms_own_way_to_name_a_file(weights):
    overlay = {"file": str(weights)}
    model = timm.create_model("sf_moe_small_patch16_224", pretrained=True, pretrained_cfg_overlay=overlay, **SPARSE)
    assert torch.equal(model.norm.weight, read_state_dict(weights)["norm.weight"])


def test_models_without_published_weights():
    with pytest.raises(UserError, match="no pretrained weights are published for sf_moe_tiny_32"):
        timm.create_model("sf_moe_tiny_32", pretrained=True)
