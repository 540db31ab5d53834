"""Conditional mixtures of experts to and from dense models: exported, counted, upcycled."""

import copy

import pytest
import timm
import torch
from conditional_makers import DOMAINS, MERGED, STYLES, pictures, tiny
from safetensors.torch import save_file

import sfmoe_dg.models.backbones  # noqa: F401
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.models.architectures.conditional_export import export_merged
from sfmoe_dg.models.architectures.conditional_moe import attribute_bits
from sfmoe_dg.models.moe.conditions import LEVELS
from sfmoe_dg.models.moe.layers import moe_layers
from sfmoe_dg.models.weights.pretrained import load_pretrained


@pytest.mark.parametrize("level", MERGED)
def test_export_is_dense_and_equal(level):
    model, x = tiny(level), pictures()
    for domain in (None, 1):
        dense = export_merged(model, domain)
        assert model.training
        assert not dense.training
        assert not moe_layers(dense)
        known = None if domain is None else torch.full((4,), domain)
        with torch.no_grad():
            expected = copy.deepcopy(model).eval()(x, domains=known)
            torch.testing.assert_close(dense(x), expected, rtol=1e-10, atol=1e-12)
    if level == "task":
        assert dense.state_dict().keys() == timm.create_model("vit_tiny_32", num_classes=5).state_dict().keys()


def test_export_of_a_described_domain():
    model, x = tiny("attribute").eval(), pictures()
    bits = attribute_bits(("painted", "texture"))
    with torch.no_grad():
        expected = model(x, description=bits)
        torch.testing.assert_close(export_merged(model, description=bits)(x), expected, rtol=1e-10, atol=1e-12)
        assert not torch.allclose(expected, model(x))
        # A training domain's description is as good as its index.
        same = model(x, description=attribute_bits(STYLES[1]))
        torch.testing.assert_close(same, model(x, domains=torch.ones(4, dtype=torch.int64)))


def test_export_refuses_what_depends_on_the_picture():
    with pytest.raises(UserError, match="depends on content"):
        export_merged(tiny("token"))
    with pytest.raises(UserError, match="say which domain"):
        export_merged(tiny("task", unknown_domain="predicted"))


@pytest.mark.parametrize("policy", ["mean", "predicted"])
@pytest.mark.parametrize("level", ["modality", "task"])
def test_export_refuses_a_description_that_no_route_depends_on(level, policy):
    with pytest.raises(UserError, match=f"'{level}' does not use descriptions"):
        export_merged(tiny(level, unknown_domain=policy), description=attribute_bits(("painted",)))


@pytest.mark.parametrize("domain", [-1, 3])
@pytest.mark.parametrize("level", ["task", "attribute"])
def test_export_refuses_domains_that_there_are_not(level, domain):
    with pytest.raises(UserError, match=f"there is no domain {domain}; .* 0 to 2"):
        export_merged(tiny(level), domain)


def test_an_export_that_fails_leaves_the_model_in_training():
    model = tiny("task")
    model.set_routing(eval_capacity_ratio=1.0)
    with pytest.raises(UserError, match="capacity limit"):
        export_merged(model, 0)
    assert model.training


@pytest.mark.parametrize(
    ("sizes", "extra"),
    [({}, 6 * 7_084_800), ({"embed_dim": 1024, "depth": 24, "num_heads": 16}, 12 * 12_592_128)],
)
def test_parameters_of_one_more_merged_copy(sizes, extra):
    with torch.device("meta"):
        dense = timm.create_model("vit_base_patch16_224", **sizes)
        model = timm.create_model("cond_moe_base_patch16_224", routing_level="modality", **sizes)
        exported = export_merged(model)
    count = {name: sum(p.numel() for p in m.parameters()) for name, m in (("dense", dense), ("merged", exported))}
    assert count["merged"] - count["dense"] == extra


@pytest.mark.parametrize("level", LEVELS)
def test_upcycled_is_dense(level, tmp_path):
    torch.manual_seed(0)
    dense = timm.create_model("vit_tiny_32", num_classes=5)
    save_file(dense.state_dict(), tmp_path / "dense.safetensors")
    model = timm.create_model("cond_moe_tiny_32", num_classes=5, routing_level=level, unknown_domain="predicted")
    load_pretrained(model, tmp_path / "dense.safetensors", "cond_moe_tiny_32")
    x = pictures().float()
    for known in (DOMAINS, None):
        torch.testing.assert_close(model(x, domains=known), dense(x), rtol=1e-4, atol=1e-5)


def test_a_missing_dense_layer_is_reported(tmp_path):
    state = timm.create_model("vit_tiny_32", num_classes=5).state_dict()
    del state["blocks.2.attn.qkv.bias"]
    save_file(state, tmp_path / "dense.safetensors")
    with pytest.raises(UserError, match=r"1 missing: blocks.2.attn.experts.qkv.bias$"):
        load_pretrained(tiny().float(), tmp_path / "dense.safetensors", "cond_moe_tiny_32")
