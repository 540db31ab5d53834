"""Objectives: their arithmetic against results by hand; then each trains every kind of backbone.

timm's ``test_resnet``, four narrow blocks, stands for convolutional networks with batch norms here and in other tests.
"""

import itertools

import pytest
import torch
from objective_makers import make, minibatches
from tiny_twins import TINY_MOES, TINY_TWINS

from sfmoe_dg.algorithms.base import Forward
from sfmoe_dg.algorithms.erm import mean_losses
from sfmoe_dg.algorithms.objectives.coral import CORAL, moment_distance
from sfmoe_dg.algorithms.registry import ALGORITHMS
from sfmoe_dg.algorithms.shared.precision import Precision
from sfmoe_dg.foundation.errors import UserError

MOES = itertools.cycle(TINY_MOES)
TRIED = {name: ("mnist_cnn", "test_resnet", "vit_tiny_32", next(MOES)) for name in ALGORITHMS}
"""What every objective is tried on: two convolutional networks, a dense transformer, and the sparse ones in turn."""
PAIRS = [
    pytest.param(name, backbone, marks=() if backbone in TRIED[name] else pytest.mark.slow)
    for name in ALGORITHMS
    for backbone in ("mnist_cnn", "test_resnet", *TINY_TWINS)
]
"""Every objective with every small network; those that are not in TRIED are slow tests."""
REFUSALS = {
    (name, backbone): "convolutional feature maps"
    for name in ALGORITHMS
    if "refuses transformers" in ALGORITHMS.load(name).needs
    for backbone in TINY_TWINS
}
"""Algorithm and backbone that do not go together, and what the refusal says."""


def test_moment_distance_by_hand():
    # a: rows (0, 0), (2, 0): mean (1, 0), centred (-1, 0), (1, 0), covariance [[2, 0], [0, 0]] / 1
    # b: rows (0, 1), (0, 3): mean (0, 2), centred (0, -1), (0, 1), covariance [[0, 0], [0, 2]] / 1
    # means: ((1 - 0)^2 + (0 - 2)^2) / 2 = 2.5; covariances: (2^2 + 0 + 0 + 2^2) / 4 = 2
    a = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    b = torch.tensor([[0.0, 1.0], [0.0, 3.0]])
    assert moment_distance(a, b) == 4.5
    assert moment_distance(a, a) == 0


def test_coral_averages_risks_over_domains_and_penalties_over_pairs():
    model = make("CORAL", "mnist_cnn", mmd_gamma=2.0)
    assert isinstance(model, CORAL)
    features = [torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [2.0]])]
    logits = [torch.zeros(2, 10)] * 3
    labels = [torch.zeros(2, dtype=torch.long)] * 3
    loss, logged = model.objective(Forward(features, logits, labels, {}))
    # means differ by 1 in two of three pairs, covariances nowhere: penalty (1 + 0 + 1) / 3
    assert logged["penalty"] == pytest.approx(2 / 3)
    assert loss == pytest.approx(torch.log(torch.tensor(10.0)) + 2 * 2 / 3)


def test_coral_with_one_domain_is_erm():
    model = make("CORAL", "mnist_cnn", num_domains=1)
    values = model.update(minibatches("mnist_cnn", 1))
    assert values["penalty"] == 0


def test_mean_losses():
    assert mean_losses([{}, {}]) == {}
    passes = [{"balance": torch.tensor(1.0)}, {"balance": torch.tensor(3.0)}]
    assert mean_losses(passes) == {"balance": torch.tensor(2.0)}


def predict(model, x):
    """Predict in evaluation mode without gradients, with the same random draws (MTL's) every time."""
    torch.manual_seed(5)
    with torch.no_grad():
        return model.eval().predict(x)


@pytest.mark.parametrize(("name", "backbone"), PAIRS)
def test_two_updates_change_predictions_and_survive_a_round_trip(name, backbone):
    if (name, backbone) in REFUSALS:
        with pytest.raises(UserError, match=REFUSALS[name, backbone]):
            make(name, backbone)
        return
    model, batches = make(name, backbone), minibatches(backbone)
    x = batches[0][0]
    before = predict(model, x)
    model.train()
    for _ in range(2):
        values = model.update(batches)
    tensors = [value for value in values.values() if not isinstance(value, float)]
    assert all(value.shape == () and not value.requires_grad for value in tensors)
    after = predict(model, x)
    assert after.shape == (4, 10)
    assert torch.isfinite(after).all()
    assert not torch.equal(before, after)
    other = make(name, backbone)
    other.load_state_dict(model.state_dict())
    assert torch.equal(predict(other, x), after)
    check_bf16(model.train(), batches)


def check_bf16(model, batches):
    """One more update and a prediction under autocast; the weights stay float32."""
    batches = [(x[:2], y[:2]) for x, y in batches]  # bf16 is slow on many CPUs
    model.precision = Precision("bf16", "cpu")
    with model.precision.autocast():
        values = model.update(batches)
        logits = predict(model, batches[0][0])
    assert torch.isfinite(torch.tensor(list(values.values()))).all()
    assert torch.isfinite(logits).all()
    assert all(p.dtype == torch.float32 for p in model.parameters())


MOVES_THE_BACKBONE_AT_ONCE = {
    "ERMPlusPlus": {"linear_steps": -1},
    "LPFT": {"linear_steps": 0},
    "ADRMX": {"d_steps_per_g_step": 1},
}
"""Settings under which the first update is one of the backbone, where the default begins otherwise."""


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if (name, "sf_moe_tiny_32") not in REFUSALS])
def test_routing_losses_are_added_whatever_the_objective(name):
    weights = []
    for weight in (0.0, 10.0):
        overrides = MOVES_THE_BACKBONE_AT_ONCE.get(name, {}) | {"routing_loss_weight": weight}
        model = make(name, "sf_moe_tiny_32", **overrides)
        values = model.update(minibatches("sf_moe_tiny_32"))
        weights.append(torch.cat([p.flatten() for n, p in model.named_parameters() if "router" in n]))
    assert "balance" in values, f"{name} logs no routing loss"
    assert not torch.equal(*weights), f"{name}'s router does not feel its loss"


def test_a_routing_loss_reaches_the_router():
    weights = {}
    for weight in (0.0, 10.0):
        model = make("ERM", "sf_moe_tiny_32", routing_loss_weight=weight)
        model.update(minibatches("sf_moe_tiny_32"))
        weights[weight] = torch.cat([p.flatten() for n, p in model.named_parameters() if "router" in n])
    assert not torch.equal(weights[0.0], weights[10.0])


def test_nonlinear_classifier():
    model = make("ERM", "mnist_cnn", nonlinear_classifier=True)
    assert [m.out_features for m in model.classifier if hasattr(m, "out_features")] == [64, 32, 10]
