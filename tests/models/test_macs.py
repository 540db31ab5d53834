"""The counting hook against sums by hand and the table of the V-MoE paper.

GMACs at 224 px without head, router included.
"""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import sfmoe_dg.models.backbones  # noqa: F401
from sfmoe_dg.models.architectures.v_moe import VMoEViT
from sfmoe_dg.models.macs import count_macs
from sfmoe_dg.models.moe.layers import MoE, ffn_moe
from sfmoe_dg.models.moe.routing import RoutingOptions

TABLE = {
    "v_moe_small_patch32_224": ("1.356", "1.820"),
    "v_moe_base_patch32_224": ("4.408", "5.973"),
    "v_moe_base_patch16_224": ("17.563", "23.727"),
    "v_moe_large_patch32_224": ("15.377", "20.933"),
    "v_moe_large_patch16_224": ("61.554", "83.445"),
    "v_moe_huge_patch14_224": ("167.294", "226.749"),
}


def giga(name: str, **kwargs: object) -> float:
    """GMACs per image, features only."""
    model = timm.create_model(name, num_classes=0, device="meta", **kwargs).eval()
    images = torch.empty(8, 3, 224, 224, device="meta")
    return count_macs(model, images, buffers=True).total / 8 / 1e9


def slow_if_large(name: str) -> tuple[pytest.MarkDecorator, ...]:
    """Models of hundreds of experts take seconds to build, even on the ``meta`` device."""
    return (pytest.mark.slow,) if "large" in name or "huge" in name else ()


class TestByHand:
    def test_linear_and_convolution(self):
        model = nn.Sequential(nn.Conv2d(3, 4, 2, stride=2), nn.Flatten(), nn.Linear(4 * 3 * 3, 5))
        # 9 places × 4 channels × (3·2·2) each, then 36 × 5, two images
        macs = count_macs(model, torch.zeros(2, 3, 6, 6))
        assert macs.total == 2 * (9 * 4 * 12 + 36 * 5)
        assert macs.modules == {"0": 2 * 9 * 4 * 12, "2": 2 * 36 * 5}

    @pytest.mark.parametrize("device", ["cpu", "meta"])
    def test_attention_counts_both_products(self, device: str):
        tokens, dim = 17, 96
        model = VMoEViT(
            img_size=32, patch_size=8, embed_dim=dim, depth=1, num_heads=3, moe_layers=(), device=device
        ).eval()
        macs = count_macs(model, torch.zeros(1, 3, 32, 32, device=device))
        products = 2 * tokens * tokens * dim
        assert macs.modules["blocks.0.attn"] == tokens * 4 * dim * dim + products
        assert macs.modules["blocks.0.mlp"] == tokens * 2 * dim * 4 * dim

    @pytest.mark.parametrize("device", ["cpu", "meta"])
    def test_mixture_of_experts(self, device: str):
        layer = moe(top_k=2, device=device).eval()
        macs = count_macs(layer, torch.zeros(3, 5, 8, device=device))
        router, experts = 15 * 8 * 4, 2 * 15 * (2 * 8 * 16)
        assert (macs.modules["router"], macs.modules["experts"]) == (router, experts)
        assert macs.total == router + experts

    def test_dropped_rows_are_not_computed(self):
        layer = moe(top_k=1, eval_capacity_ratio=1.0, group="batch").eval()
        # All 12 tokens are alike and want the same expert, which keeps 12 / 4 = 3 of them.
        macs = count_macs(layer, torch.ones(2, 6, 8))
        assert macs.modules["experts"] == 3 * (2 * 8 * 16)

    def test_buffers_are_computed_in_full(self):
        layer = moe(top_k=1, eval_capacity_ratio=1.5, group="batch").eval()
        macs = count_macs(layer, torch.ones(2, 6, 8), buffers=True)
        assert macs.modules["experts"] == 1.5 * 12 * (2 * 8 * 16)
        assert macs.total == macs.modules["experts"] + 12 * 8 * 4
        assert layer.options.eval_capacity_ratio == 1.5

    def test_grouped_gemm_multiplies_every_row_once(self):
        class Grouped(nn.Module):
            def forward(self, x: torch.Tensor, w: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
                return nn.functional.grouped_mm(x, w, offs=ends)

        ends = torch.tensor([4, 4, 12], dtype=torch.int32)
        assert count_macs(Grouped(), torch.zeros(12, 8), torch.zeros(3, 8, 16), ends).total == 12 * 8 * 16

    def test_a_shared_module_counts_every_call(self):
        class Twice(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer = nn.Linear(4, 4)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.layer(self.layer(x))

        macs = count_macs(Twice(), torch.zeros(1, 4))
        assert macs.total == macs.modules["layer"] == 2 * 16

    def test_the_options_come_back_when_the_model_raises(self):
        layer = moe(top_k=1, eval_capacity_ratio=1.5).eval()
        with pytest.raises(RuntimeError):
            count_macs(layer, torch.zeros(1, 2, 9), buffers=True)
        assert layer.options.eval_capacity_ratio == 1.5


class TestVMoETable:
    @pytest.mark.parametrize("name", TABLE)
    def test_dense(self, name: str):
        assert f"{giga(name, moe_layers=()):.3f}" == TABLE[name][0]

    @pytest.mark.parametrize("name", [pytest.param(name, marks=slow_if_large(name)) for name in TABLE])
    def test_every_2(self, name: str):
        assert f"{giga(name, eval_capacity_ratio=1.05):.3f}" == TABLE[name][1]

    def test_huge_last_5_at_half_capacity_costs_what_the_dense_one_does(self):
        sparse = giga("v_moe_huge_patch14_224", moe_layers="last-5", eval_capacity_ratio=0.5)
        assert f"{100 * sparse / giga('v_moe_huge_patch14_224', moe_layers=()):.1f}" == "100.0"


def moe(device: str = "cpu", **options: object) -> MoE:
    return ffn_moe(8, 16, options=RoutingOptions(4, **options), device=device)  # type: ignore[arg-type]
