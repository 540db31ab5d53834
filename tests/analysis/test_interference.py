"""Domain interference: by hand on a network of two weights, and its invariants on real ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_twins import TINY_TWINS
from torch import nn

from sfmoe_dg.algorithms.base import Algorithm
from sfmoe_dg.algorithms.registry import ALGORITHMS, default_hparams
from sfmoe_dg.analysis.interference.compute import (
    cosines,
    domain_interference,
    domain_loss,
    layer_of,
    layers_of,
    matrix,
    mean_off_diagonal,
    part_of_layer,
)
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.models.backbones import Featurizer
from sfmoe_dg.models.moe.layers import moe_layers

UNLIKE_ERM = ("CORAL", "DANN", "SMA", "SWAD", "MTL", "ARM", "ERMPlusPlus", "SagNet")
"""Algorithms with a penalty, several optimisers, averages, inputs or networks of their own."""


def algorithm(backbone="vit_tiny_32", name="ERM", dtype=torch.float64, **hparams):
    torch.manual_seed(0)
    values = default_hparams(name, "StyledDigits") | {"backbone": backbone, "pretrained": False} | hparams
    return ALGORITHMS.load(name)((3, 32, 32), 5, 3, values).to(dtype)


def batches(count=1, dtype=torch.float64):
    torch.manual_seed(1)
    return [[(torch.randn(2, 3, 32, 32, dtype=dtype), torch.randint(5, (2,))) for _ in range(3)] for _ in range(count)]


class TwoWeights(Algorithm):
    """Predicts its two weights; the losses of the tests are polynomials of them."""

    def __init__(self):
        super().__init__((2,), 2, 2, {})
        network = nn.Module()
        network.w = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
        network.forward = lambda x: network.w.expand(len(x), 2)
        self.featurizer = Featurizer(network, 2, ((), ()))

    def predict(self, x):
        return self.featurizer(x)


def quadratic(model, env, x, y):
    """L_0 = w_0² + w_1, L_1 = 3 w_1: gradients at (1, 2) are (2, 1) and (0, 3)."""
    w = model.predict(x)[0]
    return w[0] ** 2 + w[1] if env == 0 else 3 * w[1]


TWO = [[(torch.zeros(1, 2, dtype=torch.float64), torch.zeros(1))] * 2]


def test_gradient_form_by_hand():
    table = domain_interference(TwoWeights(), TWO, loss=quadratic)
    cosine = 3 / (5**0.5 * 3)
    np.testing.assert_allclose(matrix(table, "w"), [[1, cosine], [cosine, 1]])
    np.testing.assert_allclose(cosines(torch.tensor([[3.0, 4.0], [0, 0], [-3, -4]])), [
        [1, np.nan, -1], [np.nan, np.nan, np.nan], [-1, np.nan, 1],
    ])  # fmt: skip


def test_finite_step_by_hand():
    """A step of length √5 along (2, 1)/√5 leads from (1, 2) to (-1, 1); of the same along (0, 1) to (1, 2 - √5)."""
    model = TwoWeights()
    table = domain_interference(model, TWO, form="step", step=5**0.5, loss=quadratic)
    root = 5**0.5
    # Own steps: L_0 falls from 3 to 2, L_1 by 3√5. Across: L_0 falls by √5, L_1 by 3.
    np.testing.assert_allclose(matrix(table, "w"), [[1, root / 1], [3 / (3 * root), 1]])
    assert model.featurizer.network.w.tolist() == [1, 2]
    # Twice as far, from (1, 2) to (-3, 0), raises L_0 from 3 to 9: its own step is no yardstick.
    far = matrix(domain_interference(model, TWO, form="step", step=2 * root, loss=quadratic), "w")
    assert np.isnan(far[0]).all()
    np.testing.assert_allclose(far[1], [6 / (6 * root), 1])


@pytest.mark.parametrize("backbone", [*TINY_TWINS, "test_resnet"])
def test_the_forms_agree_at_small_steps(backbone):
    model = algorithm(backbone)
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = 1.0  # takes over the statistics of one batch, without which the losses are of size 1e3
        # A residual branch starts as zero, on which the kink of the ReLU after it lies exactly.
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    model.predict(batches()[0][0][0])
    grouping = (lambda name: name.partition(".")[0]) if backbone == "test_resnet" else part_of_layer
    gradient = domain_interference(model, batches(), grouping=grouping)
    step = domain_interference(model, batches(), grouping=grouping, form="step", step=1e-7)
    assert list(gradient["layer"]) == list(step["layer"])
    both = gradient["interference"].notna() & step["interference"].notna()
    assert both.mean() > 0.8
    np.testing.assert_allclose(gradient["interference"][both], step["interference"][both], atol=2e-3)
    diagonal = gradient[gradient["affected"] == gradient["updating"]]["interference"].dropna()
    np.testing.assert_array_equal(diagonal, 1.0)
    assert gradient["interference"].dropna().abs().max() <= 1 + 1e-9


@pytest.mark.parametrize("form", ["gradient", "step"])
def test_rescaling_a_domains_loss_changes_nothing(form):
    def rescaled(model, env, x, y):
        return (1.0, 0.01, 50.0)[env] * domain_loss(model, env, x, y)

    model = algorithm("sf_moe_tiny_32")
    plain = domain_interference(model, batches(), form=form, step=1e-2)
    other = domain_interference(model, batches(), form=form, step=1e-2, loss=rescaled)
    np.testing.assert_allclose(plain["interference"], other["interference"], atol=1e-7)


def test_equal_domains_help_each_other_like_themselves():
    model, one = algorithm("sf_moe_tiny_32"), batches()[0][0]
    table = domain_interference(model, [[one, one, one]])
    np.testing.assert_allclose(table["interference"].dropna(), 1.0, atol=1e-12)


def test_means_over_batches():
    model, (first, second) = algorithm(), batches(2)
    each = [matrix(domain_interference(model, [b]), "blocks.1") for b in (first, second)]
    table = domain_interference(model, [first, second])
    np.testing.assert_allclose(matrix(table, "blocks.1"), (each[0] + each[1]) / 2)
    row = table[(table["layer"] == "blocks.1") & (table["affected"] == 0) & (table["updating"] == 2)].iloc[0]
    assert row["stderr"] == pytest.approx(abs(each[0][0, 2] - each[1][0, 2]) / 2)
    assert row["batches"] == 2
    summary = mean_off_diagonal(table).set_index("layer")
    values = matrix(table, "blocks.1")[~np.eye(3, dtype=bool)]
    assert summary.loc["blocks.1", "interference"] == pytest.approx(values.mean())
    assert summary.loc["blocks.1", "harmful"] == pytest.approx((values < 0).mean())


@pytest.mark.parametrize("name", UNLIKE_ERM)
def test_any_algorithm_and_its_weights_are_left_alone(name):
    model = algorithm("sf_moe_tiny_32", name, dtype=torch.float32)
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trainable = [p.requires_grad for p in model.parameters()]
    table = domain_interference(model, batches(dtype=torch.float32), form="step", step=1e-2)
    assert {"blocks.0", "blocks.3", "classifier", "all"} <= set(table["layer"])
    assert matrix(table)[0, 0] == 1
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == trainable
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def test_networks_that_route_by_domain_are_told_it():
    model = algorithm("cond_moe_tiny_32", "CondMoE", routing_level="task").eval()
    with torch.no_grad():  # experts start as copies of each other, for which no route matters
        for _, layer in moe_layers(model):
            for weight in layer.experts.parameters():
                weight.add_(torch.randn_like(weight), alpha=0.1)
    x, y = batches()[0][0]
    told = [domain_loss(model, env, x, y).item() for env in (0, 1)]
    logits = model.classifier(model.featurizer.forward_with_losses(x, torch.full((2,), 1))[0])
    assert told[1] == pytest.approx(torch.nn.functional.cross_entropy(logits, y).item())
    assert told[0] != told[1]
    assert not model.featurizer.network._forward_pre_hooks


def test_names_of_layers():
    assert layer_of("blocks.3.attn.qkv.weight") == "blocks.3"
    assert layer_of("layer2.0.conv1.weight") == "layer2.0"
    assert layer_of("cls_token") == "cls_token"
    assert part_of_layer("blocks.3.mlp.experts.fc1.weight") == "blocks.3.mlp.experts"
    assert part_of_layer("blocks.3.attn.qkv.weight") == "blocks.3.attn"
    assert part_of_layer("norm.weight") == "norm"
    layers = layers_of(algorithm("wide_net_tiny_32"), torch.randn(1, 3, 32, 32, dtype=torch.float64))
    assert list(layers)[-2:] == ["classifier", "all"]
    assert {"shared.0", "blocks.0", "patch_embed"} <= set(layers)
    assert sum(p.numel() for p in layers["all"]) == sum(
        sum(p.numel() for p in members) for name, members in layers.items() if name != "all"
    )


def test_what_is_refused():
    with pytest.raises(UserError, match="allowed: gradient, step"):
        domain_interference(algorithm(), batches(), form="hessian")
    with pytest.raises(UserError, match="above 0"):
        domain_interference(algorithm(), batches(), form="step", step=0)
    with pytest.raises(UserError, match="no batch"):
        domain_interference(algorithm(), [])
    with pytest.raises(UserError, match="no layer 'x'"):
        matrix(domain_interference(algorithm(), batches()), "x")
