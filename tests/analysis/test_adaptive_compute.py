"""Accuracy and kept tokens of one trained model under other capacities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_twins import TINY_MOES

from sfmoe_dg.algorithms.registry import ALGORITHMS, default_hparams
from sfmoe_dg.analysis.adaptive_compute.compute import (
    accuracy_against_capacity,
    dropped_patches,
    drops_on_object,
    first_dropped,
)
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.models.moe.layers import moe_layers
from sfmoe_dg.models.moe.trace import LayerTrace, routing_trace


def algorithm(backbone, name="ERM", **hparams):
    torch.manual_seed(0)
    values = default_hparams(name, "StyledDigits") | {"backbone": backbone, "pretrained": False} | hparams
    return ALGORITHMS.load(name)((3, 32, 32), 5, 3, values)


def batches(*sizes):
    torch.manual_seed(1)
    return [(torch.randn(n, 3, 32, 32), torch.randint(5, (n,))) for n in sizes]


@pytest.mark.parametrize("backbone", TINY_MOES)
def test_shares_by_hand_and_invariants(backbone):
    model = algorithm(backbone)
    before = [layer.options for _, layer in moe_layers(model)]
    table = accuracy_against_capacity(model, batches(4, 4), ratios=(0.25, 1.0, None))
    assert table["allocation"].tolist() == ["vanilla", "batch_priority"] * 2 + ["dropless"]
    assert (table["images"] == 8).all()
    by = table.set_index(["capacity_ratio", "allocation"])
    dropless = table.iloc[-1]
    assert dropless["assignments_kept"] == dropless["tokens_kept"] == 1
    for ratio in (0.25, 1.0):
        assert by.loc[(ratio, "vanilla"), "tokens_kept"] >= by.loc[(ratio, "vanilla"), "assignments_kept"]
    small = table[table["capacity_ratio"] == 0.25]
    # No expert can keep more than its buffer: ceil(68 K / E) · 1/4 slots of 68 K, with V-MoE's rounding to fours.
    assert (small["assignments_kept"] < 0.5).all()
    assert [layer.options for _, layer in moe_layers(model)] == before


def test_dropless_accuracy_is_that_of_the_model():
    model, given = algorithm("sf_moe_tiny_32"), batches(5, 3)
    model.eval()
    with torch.no_grad():
        right = torch.cat([model.predict(x).argmax(1) == y for x, y in given]).float().mean().item()
    table = accuracy_against_capacity(model, given, ratios=(None,), ks=(1, 2, 6))
    assert table["k"].tolist() == [1, 2, 6]
    assert table["accuracy"][1] == pytest.approx(right)
    assert table["stderr"][1] == pytest.approx((right * (1 - right) / 8) ** 0.5)
    np.testing.assert_allclose(table["gate_kept"], 1.0, rtol=1e-5)  # SF-MoE's gates sum to one


def test_batch_priority_keeps_more_gate_in_the_only_layer():
    """With one choice per token BPR maximises the kept gates of every expert, and drops as many as vanilla."""
    model = algorithm("v_moe_tiny_32", moe_layers=[0], top_k=1)
    table = accuracy_against_capacity(model, batches(8), ratios=(0.5,)).set_index("allocation")
    assert table.loc["vanilla", "assignments_kept"] == table.loc["batch_priority", "assignments_kept"] < 1
    assert table.loc["batch_priority", "gate_kept"] > table.loc["vanilla", "gate_kept"]


def test_an_average_of_weights_is_measured_where_it_predicts():
    model = algorithm("sf_moe_tiny_32", "SMA")
    table = accuracy_against_capacity(model, batches(4), ratios=(0.25,))
    assert (table["assignments_kept"] < 0.5).all()
    assert (table["assignments_kept"] > 0).all()


@pytest.mark.parametrize("backbone", TINY_MOES)
def test_drops_of_the_first_layer_are_nested(backbone):
    model, ratios = algorithm(backbone), (0.1, 0.3, 0.6, 1.0, 8.0)
    found = dropped_patches(model.featurizer.network, torch.randn(4, 3, 32, 32), ratios)
    calls: list[LayerTrace] = []
    with routing_trace(model, calls.append):
        model.predict(torch.randn(1, 3, 32, 32))
    assert len(found) == len(calls)
    name, first = next(iter(found.items()))
    assert first.shape == (5, 4, 4, 4)
    assert first[0].any()
    assert not first[-1].any()
    assert (first[:-1] >= first[1:]).all()
    if backbone == "wide_net_tiny_32":
        assert list(found) == [name, f"{name}#2", f"{name}#3", f"{name}#4"]


def test_vanilla_drops_the_last_images_first():
    model = algorithm("sf_moe_tiny_32")
    drops = dropped_patches(model.featurizer.network, torch.randn(8, 3, 32, 32), (0.4,), allocation="vanilla")
    per_image = next(iter(drops.values()))[0].reshape(8, -1).mean(-1)
    assert per_image[:2].mean() < per_image[-2:].mean()
    alone = dropped_patches(
        model.featurizer.network, torch.randn(8, 3, 32, 32), (0.4,), allocation="vanilla", group="image"
    )
    assert next(iter(alone.values()))[0, 0].any()


def test_when_and_where_by_hand():
    # Two images of two patches, three ratios: (dropped up to 0.2 / never), (up to 0.5 / up to 1).
    dropped = np.array([[[[1, 0]], [[1, 1]]], [[[0, 0]], [[1, 1]]], [[[0, 0]], [[0, 1]]]], bool)
    ratios = (0.2, 0.5, 1.0)
    assert first_dropped(dropped, ratios).tolist() == [[[0.2, 0.0]], [[0.5, 1.0]]]
    table = drops_on_object(dropped, ratios, np.array([[[True, False]], [[True, False]]]))
    assert table["object"].tolist() == [1, 0.5, 0]
    assert table["background"].tolist() == [0.5, 0.5, 0.5]
    assert table["dropped"].tolist() == [0.75, 0.5, 0.25]
    assert drops_on_object(dropped, ratios, np.zeros((2, 1, 2), bool))["object"].isna().all()


def test_models_without_experts_are_refused():
    with pytest.raises(UserError, match="no capacity to change"):
        accuracy_against_capacity(algorithm("vit_tiny_32"), batches(2))
    with pytest.raises(UserError, match="no image"):
        accuracy_against_capacity(algorithm("sf_moe_tiny_32"), [])
