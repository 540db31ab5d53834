"""Schedule, layer-wise decay and clipping, by hand; off by default."""

import copy
import math
from itertools import pairwise

import pytest
import torch

from sfmoe_dg.algorithms.registry import ALGORITHMS, default_hparams, hparam_table
from sfmoe_dg.algorithms.shared.optimisation import clip_gradients, lr_factor, set_fused, set_lr_factor
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.runs.hparams import check_overrides
from sfmoe_dg.training.checkpoint import capture, restore


def make(**overrides):
    torch.manual_seed(0)
    hparams = default_hparams("ERM", "StyledDigits") | overrides
    return ALGORITHMS.load("ERM")((3, 32, 32), 10, 2, hparams)


def batches():
    generator = torch.Generator().manual_seed(1)
    return [(torch.rand(4, 3, 32, 32, generator=generator), torch.tensor([0, 1, 2, 3])) for _ in range(2)]


def test_the_default_is_a_constant_rate():
    assert [lr_factor(step, 10, default_hparams("ERM", "PACS")) for step in range(10)] == [1.0] * 10


def test_warm_up_then_half_a_cosine():
    hparams = {"lr_schedule": "cosine", "warmup_steps": 2}
    # 1/3, 2/3, then cos over the 4 steps that are left: 0, 1/4, 2/4, 3/4 of pi
    expected = [1 / 3, 2 / 3, 1.0, 0.5 * (1 + math.cos(math.pi / 4)), 0.5, 0.5 * (1 - math.cos(math.pi / 4))]
    assert [lr_factor(step, 6, hparams) for step in range(6)] == pytest.approx(expected)


def test_a_factor_is_of_the_first_rate_not_of_the_last():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    for factor in (0.1, 0.1, 1.0):
        set_lr_factor(optimizer, factor)
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_the_schedule_reaches_the_optimiser_and_one_that_is_made_anew():
    model = make(lr=0.1, lr_schedule="cosine")
    model.schedule(5, 10)
    assert model.optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
    assert model.adam(model.network.parameters()).param_groups[0]["lr"] == pytest.approx(0.05)


def test_clipping_scales_the_joint_norm():
    a, b = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    a.grad, b.grad = torch.tensor([3.0]), torch.tensor([4.0])
    clip_gradients(torch.optim.SGD([a, b], lr=1.0), 1.0)  # norm 5 becomes 1
    assert (a.grad.item(), b.grad.item()) == pytest.approx((0.6, 0.8))


def test_clipping_reaches_the_update():
    changes = []
    for clip in (0.0, 1e-12):
        model = make(grad_clip=clip)
        before = model.classifier.weight.detach().clone()
        model.optimizer = torch.optim.SGD(model.network.parameters(), lr=1.0)
        model.update(batches())
        changes.append((model.classifier.weight - before).abs().max())
    assert changes[1] < 1e-10 < changes[0]


def test_layer_decay_gives_lower_layers_smaller_rates():
    model = make(lr=1.0, layer_decay=0.5)
    rates = {id(p): group["lr"] for group in model.optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(list(model.network.parameters()))
    blocks = [rates[id(block.norm1.weight)] for block in model.featurizer.network.blocks]
    assert [after / before for before, after in pairwise(blocks)] == [2.0] * (len(blocks) - 1)
    assert rates[id(model.classifier.weight)] == 1.0
    stem = [rates[id(p)] for p in model.featurizer.network.patch_embed.parameters()]
    assert max(stem) == blocks[0] / 2


def test_layer_decay_of_one_leaves_one_group():
    assert len(make().optimizer.param_groups) == 1


def test_layer_decay_needs_layers_with_an_order():
    with pytest.raises(UserError, match="'layer_decay' needs a timm backbone"):
        make(backbone="mnist_cnn", layer_decay=0.5)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [("DANN", {}), ("CDANN", {}), ("ADRMX", {}), ("Transfer", {"gda": True}), ("ERMPlusPlus", {"lars": True})],
)
def test_layer_decay_is_refused_where_an_optimiser_of_its_own_would_not_have_it(name, overrides):
    algorithm, hparams = ALGORITHMS.load(name), default_hparams(name, "StyledDigits") | overrides
    algorithm.check_hparams(hparams, "hparams")
    with pytest.raises(UserError, match=f"'layer_decay' in hparams is 0.5, but {name}"):
        algorithm.check_hparams(hparams | {"layer_decay": 0.5}, "hparams")


@pytest.mark.parametrize("name", ["Transfer", "ERMPlusPlus"])
def test_layer_decay_works_where_the_optimiser_is_the_common_one(name):
    hparams = default_hparams(name, "StyledDigits") | {"layer_decay": 0.5}
    ALGORITHMS.load(name).check_hparams(hparams, "hparams")
    model = ALGORITHMS.load(name)((3, 32, 32), 10, 2, hparams)
    assert len(model.optimizer.param_groups) > 1


@pytest.mark.parametrize(("name", "value"), [("warmup_steps", -1), ("grad_clip", -0.5), ("layer_decay", 0.0)])
def test_values_that_cannot_be(name, value):
    with pytest.raises(UserError, match=name):
        check_overrides(hparam_table("ERM", "StyledDigits"), {name: value}, "hparams")


def trained(optimizer, weight, steps):
    """Continue for this many steps; the number of each step determines its gradient. Returns the final ``weight``."""
    for _ in range(steps):
        weight.grad = torch.linspace(-1, 2, len(weight)) * (weight.detach() + 1)
        optimizer.step()
    return weight.detach().clone()


def test_fusing_adam_keeps_what_it_remembers():
    """Switched on after two steps and off again after two more, it goes where one goes that was never switched."""
    ends = []
    for switched in (False, True):
        weight = torch.nn.Parameter(torch.linspace(0, 1, 7))
        optimizer = torch.optim.Adam([weight], lr=0.1, weight_decay=0.01)
        trained(optimizer, weight, 2)
        if switched:
            set_fused(optimizer, True)
            assert optimizer.param_groups[0]["fused"]
        trained(optimizer, weight, 2)
        if switched:
            set_fused(optimizer, False)
            assert optimizer.param_groups[0]["fused"] is None
        ends.append(trained(optimizer, weight, 2))
        assert optimizer.state[weight]["step"] == 6
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-5, atol=1e-6)


def test_the_scaler_of_float16_steps_with_a_fused_adam():
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight], lr=0.1)
    set_fused(optimizer, True)
    scaler = torch.amp.GradScaler("cpu")
    for gradient, expected in ((float("inf"), 1.0), (2.0, 0.9)):
        # An overflow moves nothing; Adam's first step is of the length of the learning rate.
        optimizer.zero_grad()
        scaler.scale((weight * gradient).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        torch.testing.assert_close(weight.detach(), torch.full((3,), expected))


def test_adam_is_fused_on_cuda_only():
    """On the CPU the fused step rounds otherwise than upstream's."""
    assert make().optimizer.param_groups[0]["fused"] is None


def test_a_state_saved_on_cuda_is_fitted_to_the_cpu():
    model = make()
    model.update(batches())
    set_fused(model.optimizer, True)
    # In earnest there is a file between the two.
    saved = copy.deepcopy(capture(model))
    other = make()
    restore(other, saved)
    assert other.optimizer.param_groups[0]["fused"] is None
    for one in (model, other):
        one.fit_optimizers()
        torch.manual_seed(2)
        one.update(batches())
    assert all(map(torch.equal, model.parameters(), other.parameters()))
