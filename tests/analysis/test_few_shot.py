"""Few-shot transfer: the ridge head against least squares by hand, prompt tokens against the model without."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_twins import TINY_TWINS

from sfmoe_dg.algorithms.registry import ALGORITHMS, default_hparams
from sfmoe_dg.analysis.few_shot.compute import (
    RidgeHead,
    accuracy_of,
    draw_examples,
    few_shot_prompts,
    few_shot_ridge,
    prompted,
    tune_prompts,
)
from sfmoe_dg.analysis.subject.predicting import features_and_logits, predicting_featurizer
from sfmoe_dg.foundation.errors import UserError


def algorithm(backbone="vit_tiny_32", name="ERM", **hparams):
    torch.manual_seed(0)
    values = default_hparams(name, "StyledDigits") | {"backbone": backbone, "pretrained": False} | hparams
    return ALGORITHMS.load(name)((3, 32, 32), 3, 3, values)


def colours(count, seed=0):
    """Pictures whose class is the brightest channel."""
    random = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 3
    x = 0.3 * torch.randn(count, 3, 32, 32, generator=random)
    x[torch.arange(count), y] += 1.0
    return x, y


def test_draws_are_nested_counted_and_keyed():
    labels = np.array([0] * 6 + [1] * 3 + [2] * 11)
    one, five = (draw_examples(labels, n, 0, 0) for n in (1, 5))
    assert np.bincount(labels[one]).tolist() == [1, 1, 1]
    assert np.bincount(labels[five]).tolist() == [5, 3, 5]
    assert set(one) <= set(five)
    assert len(draw_examples(labels, 0.1, 0, 0)) == 2
    assert len(draw_examples(labels, 0.01, 0, 0)) == 1
    assert len(draw_examples(labels, 0.1, 0, 0, whole=70)) == 7
    with pytest.raises(UserError, match="of 500 images are 50, but only 20"):
        draw_examples(labels, 0.1, 0, 0, whole=500)
    assert draw_examples(labels, 5, 0, 0).tolist() == five.tolist()
    assert draw_examples(labels, 5, 0, 1).tolist() != five.tolist()
    for wrong in (0, 2.5, -1):
        with pytest.raises(UserError, match="whole number per class"):
            draw_examples(labels, wrong, 0, 0)


def test_ridge_head_by_hand():
    """One feature, standardised to -1 and 1, beside the constant 100; targets ±1; λ = 2.

    XᵀX = diag(2, 20000) and XᵀY = (-2, 2; 0, 0), so that the slope is ∓2 / (2 + 2) and the intercept is zero.
    """
    head = RidgeHead(np.array([[3.0], [5.0]]), np.array([0, 1]), 2, l2=2.0)
    np.testing.assert_allclose(head.weights_FC, [[-0.5, 0.5], [0, 0]], atol=1e-5)
    np.testing.assert_allclose(head.scores(np.array([[4.0], [6.0]])), [[0, 0], [-1, 1]], atol=1e-4)


def test_both_forms_of_the_solution_are_the_same():
    random = np.random.default_rng(0)
    features, labels = random.normal(size=(6, 20)), np.array([0, 1, 2, 0, 1, 2])
    wide = RidgeHead(features, labels, 3, l2=3.0)
    x = wide._standardized(features)
    y = 2 * np.eye(3)[labels] - 1
    np.testing.assert_allclose(wide.weights_FC, np.linalg.solve(x.T @ x + 3 * np.eye(21), x.T @ y), atol=1e-9)
    tall = RidgeHead(features[:, :3], labels, 3, l2=3.0)
    x = tall._standardized(features[:, :3])
    np.testing.assert_allclose(tall.weights_FC, x.T @ np.linalg.solve(x @ x.T + 3 * np.eye(6), y), atol=1e-9)


@pytest.mark.parametrize("backbone", [*TINY_TWINS, "test_resnet"])
def test_ridge_learns_what_the_features_show(backbone):
    x, y = colours(60)
    table = few_shot_ridge(algorithm(backbone), [(x[:30], y[:30])], [(x[30:45], y[30:45]), (x[45:], y[45:])], draws=3)
    assert table["method"].tolist() == ["none"] + ["ridge"] * 4
    assert table["shots"].tolist() == [0, 1, 5, 10, 0.01]
    assert table["examples"].tolist() == [0, 3, 15, 30, 1]
    assert table["draws"].tolist() == [1, 3, 3, 3, 3]
    assert table["accuracy"][3] > 0.8
    assert table["stderr"][3] == 0  # all that there is, in every draw
    assert np.isnan(table["stderr"][0])


def test_features_are_those_that_predict():
    x, y = colours(6)
    for name in ("ERM", "SMA", "SWAD", "ARM"):
        model = algorithm("sf_moe_tiny_32", name)
        model.train()
        features, logits, labels = features_and_logits(model, [(x[:4], y[:4]), (x[4:], y[4:])])
        assert labels.tolist() == y.tolist()
        head = (model.average.network if name == "SMA" else model.network)[1]
        np.testing.assert_allclose(head(torch.from_numpy(features).float()).detach(), logits, atol=1e-4)
        assert model.training
    model = algorithm("sf_moe_tiny_32", "SMA")
    assert predicting_featurizer(model, x[:1]) is model.average.network[0]


@pytest.mark.parametrize("backbone", TINY_TWINS)
def test_prompts_join_and_leave(backbone):
    model, (x, _) = algorithm(backbone).eval(), colours(2)
    network, seen = model.featurizer.network, []
    with torch.no_grad():
        plain = model.predict(x)
        hook = network.blocks[3].norm2.register_forward_hook(lambda m, args, out: seen.append(out.shape[1]))
        with prompted(model, x[:1], torch.zeros(0, 64)):
            torch.testing.assert_close(model.predict(x), plain)
        with prompted(model, x[:1], torch.randn(5, 64)):
            changed = model.predict(x)
        hook.remove()
        assert seen[-1] == 17 + 5
        assert not torch.allclose(changed, plain)
        torch.testing.assert_close(model.predict(x), plain)


def test_tuning_lowers_the_loss_and_moves_nothing_else():
    model, (x, y) = algorithm("sf_moe_tiny_32"), colours(30)
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    start = tune_prompts(model, x, y, num_prompts=3, steps=0, seed=4)
    prompts = tune_prompts(model, x, y, num_prompts=3, steps=40, lr=0.05, batch_size=16, seed=4)
    assert prompts.shape == (3, 64)
    model.eval()

    def loss(tokens):
        with torch.no_grad(), prompted(model, x[:1], tokens):
            return torch.nn.functional.cross_entropy(model.predict(x), y).item()

    assert loss(prompts) < loss(start) - 0.01
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_prompt_table():
    x, y = colours(40)
    model = algorithm("v_moe_tiny_32")
    table = few_shot_prompts(
        model, [(x[:20], y[:20])], [(x[20:], y[20:])], shots=(1, 0.25), draws=2, num_prompts=2, steps=3
    )
    assert table["method"].tolist() == ["none", "prompts", "prompts"]
    assert table["examples"].tolist() == [0, 3, 5]
    assert table["parameters"].tolist() == [0, 2 * 64, 2 * 64]
    assert table["accuracy"][0] == accuracy_of(model, [(x[20:], y[20:])])
    again = few_shot_prompts(
        model, [(x[:20], y[:20])], [(x[20:], y[20:])], shots=(1, 0.25), draws=2, num_prompts=2, steps=3
    )
    assert again.equals(table)


def test_networks_without_tokens_are_refused():
    x, y = colours(3)
    with pytest.raises(UserError, match="has no tokens"):
        tune_prompts(algorithm("test_resnet"), x, y)
    with pytest.raises(UserError, match="no image"):
        few_shot_ridge(algorithm(), [], [(x, y)])
    with pytest.raises(UserError, match="no image"):
        accuracy_of(algorithm(), [])
