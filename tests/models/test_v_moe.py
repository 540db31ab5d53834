"""V-MoE: the published parameter counts, the authors' initial values, the head, the resizing of positions.

Parameters in millions, equal to the paper's table to the printed digit.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.ndimage
import timm
import torch
from torch import nn

import sfmoe_dg.models.backbones  # noqa: F401
from sfmoe_dg.algorithms.registry import default_hparams
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.models.architectures.v_moe import VMoEViT, resize_position_embedding
from sfmoe_dg.models.moe.layers import moe_layers
from sfmoe_dg.models.weights.pretrained import load_pretrained

S32, B16 = "v_moe_small_patch32_224", "v_moe_base_patch16_224"
L32, L16, H14 = "v_moe_large_patch32_224", "v_moe_large_patch16_224", "v_moe_huge_patch14_224"
JFT = {"num_classes": 18_291, "pre_logits": True}
TABLE = {
    # dense, every-2, both again without head and pre-logits
    S32: ("36.466", "296.895", "26.820", "287.249"),
    "v_moe_base_patch32_224": ("102.112", "980.631", "87.455", "965.975"),
    B16: ("100.455", "978.975", "85.799", "964.318"),
    L32: ("325.308", "3448.168", "305.510", "3428.370"),
    L16: ("323.100", "3445.960", "303.302", "3426.162"),
    H14: ("655.835", "7160.836", "630.765", "7135.766"),
}
TINY = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 4,
    "num_heads": 2,
    "num_experts": 4,
    "num_classes": 5,
}


def parameters(name: str, **kwargs: object) -> int:
    return sum(p.numel() for p in timm.create_model(name, device="meta", **kwargs).parameters())


class TestParameterCounts:
    @pytest.mark.parametrize("name", TABLE)
    def test_six_sizes(self, name: str):
        dense, every_2, dense_headless, every_2_headless = TABLE[name]
        assert f"{parameters(name, moe_layers=(), **JFT) / 1e6:.3f}" == dense
        assert f"{parameters(name, **JFT) / 1e6:.3f}" == every_2
        assert f"{parameters(name, moe_layers=(), num_classes=0) / 1e6:.3f}" == dense_headless
        assert f"{parameters(name, num_classes=0) / 1e6:.3f}" == every_2_headless

    @pytest.mark.parametrize(
        ("name", "where", "count"),
        [(H14, "last-5", "2688.648"), (L32, "last-2", "845.785"), (L16, "last-2", "843.576")],
    )
    def test_last_n(self, name: str, where: str, count: str):
        assert f"{parameters(name, moe_layers=where, **JFT) / 1e6:.3f}" == count

    def test_15b(self):
        assert f"{parameters('v_moe_15b_patch14_224', num_classes=29_593) / 1e6:.2f}" == "14705.07"

    @pytest.mark.parametrize(
        ("name", "kwargs", "count"),
        [
            (S32, {"moe_layers": "last-2", "num_classes": 1000, "pre_logits": True}, 56_999_400),
            (S32, {"moe_layers": "last-2", "num_classes": 1000, "img_size": 384}, 56_785_384),
            (B16, {"moe_layers": "every-2", "num_classes": 21_843}, 300_974_931),
            (B16, {"moe_layers": "every-2", "num_classes": 1000, "img_size": 384}, 285_238_504),
        ],
    )
    def test_released_checkpoints_exactly(self, name: str, kwargs: dict, count: int):
        assert parameters(name, num_experts=8, **kwargs) == count

    def test_a_sparse_block_adds_what_the_reference_says(self):
        experts, dim, hidden = 32, 512, 2048
        added = parameters(S32, moe_layers=(3,)) - parameters(S32, moe_layers=())
        assert added == (experts - 1) * (2 * dim * hidden + hidden + dim) + dim * experts


class TestArchitecture:
    def test_placement(self):
        assert timm.create_model(S32, device="meta", moe_layers="last-2").moe_layers == (5, 7)
        assert timm.create_model(S32, device="meta").moe_layers == (1, 3, 5, 7)
        assert timm.create_model(H14, device="meta", moe_layers="last-5").moe_layers == (23, 25, 27, 29, 31)

    def test_details(self):
        model = timm.create_model("v_moe_tiny_32")
        assert model.blocks[0].norm1.eps == 1e-6
        x = torch.linspace(-3, 3, 50)
        for act in (model.blocks[0].mlp.act, model.blocks[1].mlp.experts.act):
            torch.testing.assert_close(act(x), nn.functional.gelu(x, approximate="tanh"))
        assert model.pretrained_cfg["mean"] == model.pretrained_cfg["std"] == (0.5, 0.5, 0.5)

    def test_routing_as_the_authors_fine_tune(self):
        options = moe_layers(timm.create_model(S32, device="meta"))[0][1].options
        assert (options.num_experts, options.top_k, options.noise, options.renormalize) == (32, 2, 1.0, False)
        assert (options.group, options.rounding, options.allocation) == (8, "ceil4", "vanilla")
        assert (options.capacity_ratio, options.eval_capacity_ratio) == (1.5, None)
        assert options.losses == (("importance", 0.005), ("load", 0.005))

    def test_dropless_and_batch_priority_can_be_asked_for(self):
        model = timm.create_model("v_moe_tiny_32", capacity_ratio="dropless", allocation="batch_priority")
        options = moe_layers(model)[0][1].options
        assert options.capacity_ratio is None
        assert options.allocation == "batch_priority"

    def test_initial_values(self):
        torch.manual_seed(0)
        model = VMoEViT(**TINY, pre_logits=True)
        layer = model.blocks[1].mlp
        for stack in (layer.experts.fc1, layer.experts.fc2):
            assert torch.equal(stack.weight, stack.weight[:1].expand_as(stack.weight))
            assert torch.equal(stack.bias, stack.bias[:1].expand_as(stack.bias))
            assert 0 < stack.bias.abs().max() < 1e-5
            limit = math.sqrt(6 / (32 + 128))
            assert 0.9 * limit < stack.weight.abs().max() <= limit
        assert model.head.weight.count_nonzero() == 0
        assert model.cls_token.count_nonzero() == 0
        assert model.pos_embed.std().item() == pytest.approx(0.02, rel=0.2)
        assert layer.router.weight.std().item() == pytest.approx(32**-0.5, rel=0.3)
        assert model.pre_logits.fc.bias.count_nonzero() == 0

    def test_the_tanh_layer_is_part_of_the_features(self):
        model = VMoEViT(**TINY, pre_logits=True).eval()
        x = torch.randn(2, 3, 32, 32)
        features = model.forward_head(model.forward_features(x), pre_logits=True)
        token = model.forward_features(x)[:, 0]
        torch.testing.assert_close(features, torch.tanh(model.pre_logits.fc(token)))
        model.reset_classifier(0)
        torch.testing.assert_close(model(x), features)

    def test_training_returns_both_losses_and_evaluation_ignores_the_batch(self):
        torch.manual_seed(0)
        model = timm.create_model("v_moe_tiny_32", num_classes=0)
        x = torch.randn(10, 3, 32, 32)
        _, losses = model.forward_with_losses(x)
        assert set(losses) == {"importance", "load"}
        sum(losses.values()).backward()
        assert model.blocks[1].mlp.router.weight.grad.abs().sum() > 0
        model.eval()
        with torch.no_grad():
            torch.testing.assert_close(model(x)[:3], model(x[:3]), rtol=1e-5, atol=1e-6)

    def test_dense_twin_has_no_experts(self):
        model = timm.create_model("v_moe_tiny_32", moe_layers=())
        assert moe_layers(model) == []
        assert model.forward_with_losses(torch.zeros(1, 3, 32, 32))[1] == {}


class TestPositions:
    @pytest.mark.parametrize("grid", [(12, 12), (3, 3), (5, 9), (1, 1)])
    def test_like_the_authors_zoom(self, grid: tuple[int, int]):
        old = torch.randn(1, 1 + 7 * 7, 6, generator=torch.Generator().manual_seed(0))
        square = old[0, 1:].reshape(7, 7, 6).numpy()
        expected = scipy.ndimage.zoom(square, (grid[0] / 7, grid[1] / 7, 1), order=1)
        new = resize_position_embedding(old, grid)
        np.testing.assert_allclose(new[0, 1:].reshape(*grid, 6).numpy(), expected, atol=1e-5)
        assert torch.equal(new[:, 0], old[:, 0])

    def test_the_same_grid_is_left_alone(self):
        old = torch.randn(1, 50, 4)
        assert resize_position_embedding(old, (7, 7)) is old

    def test_only_squares(self):
        with pytest.raises(UserError, match="51 tokens is not a class token and a square grid"):
            resize_position_embedding(torch.zeros(1, 51, 4), (7, 7))


class TestLoading:
    @staticmethod
    def state(tmp_path, **changes: object):
        from safetensors.torch import save_file

        torch.manual_seed(1)
        model = VMoEViT(**{**TINY, **changes})
        nn.init.normal_(model.head.weight)
        path = tmp_path / "weights.safetensors"
        save_file(model.state_dict(), path)
        return model.eval(), path

    def test_exactly(self, tmp_path):
        old, path = self.state(tmp_path, pre_logits=True)
        new = VMoEViT(**TINY, pre_logits=True).eval()
        load_pretrained(new, path, "x")
        x = torch.randn(2, 3, 32, 32)
        assert torch.equal(old(x), new(x))

    def test_other_resolution(self, tmp_path):
        old, path = self.state(tmp_path)
        new = VMoEViT(**{**TINY, "img_size": 64})
        load_pretrained(new, path, "x")
        assert torch.equal(new.pos_embed, resize_position_embedding(old.pos_embed, (8, 8)))

    def test_pre_logits_go_with_the_classifier(self, tmp_path):
        old, path = self.state(tmp_path, pre_logits=True)
        new = VMoEViT(**{**TINY, "num_classes": 0})
        load_pretrained(new, path, "x")
        assert torch.equal(new.blocks[3].mlp.experts.fc2.weight, old.blocks[3].mlp.experts.fc2.weight)

    def test_the_classifier_without_its_pre_logits_is_refused(self, tmp_path):
        _, path = self.state(tmp_path, pre_logits=True)
        with pytest.raises(UserError, match="pre_logits=True"):
            load_pretrained(VMoEViT(**TINY), path, "x")

    def test_dense_weights_are_upcycled(self, tmp_path):
        old, path = self.state(tmp_path, moe_layers=())
        new = VMoEViT(**TINY, top_k=4).eval()
        load_pretrained(new, path, "x")
        # All four experts are the dense layer and all four are chosen, so that their weights sum to one.
        x = torch.randn(2, 3, 32, 32)
        torch.testing.assert_close(old(x), new(x), rtol=1e-4, atol=1e-5)

    def test_released_weights_are_named_where_they_are(self):
        with pytest.raises(UserError, match=r"gs://vmoe_checkpoints/.*convert-vmoe"):
            timm.create_model(S32, pretrained=True, device="meta")


class TestAlgorithm:
    def test_small_pictures_take_the_tiny_twin(self):
        hparams = default_hparams("VMoE", "StyledDigits")
        assert (hparams["backbone"], hparams["moe_layers"]) == ("v_moe_tiny_32", "default")

    def test_large_pictures_take_the_released_layout(self):
        hparams = default_hparams("VMoE", "PACS")
        assert (hparams["backbone"], hparams["moe_layers"], hparams["num_experts"]) == (S32, "last-2", 8)
