"""SWAD, SMA, SAM, LP-FT, MIRO and MixStyle: their arithmetic against results by hand, on all relevant networks."""

import json

import pytest
import torch
from torch import nn

from sfmoe_dg.algorithms.objectives.miro import ChannelVariance, information_loss
from sfmoe_dg.algorithms.objectives.mix_style import mix_styles, other_domain
from sfmoe_dg.algorithms.objectives.sam import climb
from sfmoe_dg.algorithms.registry import ALGORITHMS, default_hparams
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.models.moe.layers import moe_layers
from sfmoe_dg.models.stages import conv_stages, recorded_stages, transformer_stages
from sfmoe_dg.runs.spec import RunSpec
from sfmoe_dg.training.loop import train
from sfmoe_dg.training.model_file import load_model
from sfmoe_dg.training.prepare import Execution


def make(name, backbone="mnist_cnn", num_domains=2, **overrides):
    torch.manual_seed(0)
    hparams = default_hparams(name, "StyledDigits") | {"backbone": backbone, "pretrained": False} | overrides
    return ALGORITHMS.load(name)((3, 32, 32), 10, num_domains, hparams)


def minibatches(num_domains=2, size=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.rand(size, 3, 32, 32, generator=generator), torch.randint(10, (size,), generator=generator))
        for _ in range(num_domains)
    ]


def router_of(network):
    return moe_layers(network)[0][1].router.weight


# ------------------------------------------------------------------------------------------------ weight averages


def test_sma_predicts_from_the_mean_of_weights_routers_included():
    model = make("SMA", "sf_moe_tiny_32", sma_start_iter=2)
    seen = []
    for step in range(3):
        model.update(minibatches(seed=step))
        seen.append(router_of(model.featurizer).detach().clone())
    # Start 2: the weights after update 1 are followed, those after 2 and 3 averaged in.
    assert torch.allclose(router_of(model.average.network), torch.stack(seen).mean(0), atol=1e-7)
    x = minibatches()[0][0]
    assert not torch.equal(model.eval().predict(x), model.network(x))


def test_an_average_of_shared_blocks_counts_them_once():
    model = make("SMA", "wide_net_tiny_32", sma_start_iter=1)
    weights = [router_of(model.featurizer).detach().clone()]
    for step in range(2):
        model.update(minibatches(seed=step))
        weights.append(router_of(model.featurizer).detach().clone())
    assert torch.allclose(router_of(model.average.network), torch.stack(weights).mean(0), atol=1e-7)


def test_running_statistics_of_batch_norm_are_averaged():
    model = make("SMA", "test_resnet", sma_start_iter=1)
    means = [model.featurizer.network.bn1.running_mean.clone()]
    for step in range(2):
        model.update(minibatches(seed=step))
        means.append(model.featurizer.network.bn1.running_mean.clone())
    averaged = model.average.network[0].network.bn1
    assert torch.allclose(averaged.running_mean, torch.stack(means).mean(0), atol=1e-6)
    assert averaged.num_batches_tracked == 2


def test_swad_predicts_from_the_valley():
    model = make("SWAD", "sf_moe_tiny_32", swad_n_converge=2, swad_n_tolerance=3, swad_tolerance_ratio=0.5)
    x = minibatches()[0][0]
    segments = []
    for segment, loss in enumerate([4.0, 2.0, 2.5, 2.2, 9.0, 9.0, 9.0]):
        inside = []
        for step in range(2):
            model.update(minibatches(seed=10 * segment + step))
            inside.append(router_of(model.featurizer).detach().clone())
        segments.append(torch.stack(inside).mean(0))
        assert not model.valley.over
        model.validated(loss)
        if segment == 1:
            # 4 > 2: no valley yet, so the mean over the latest segment predicts.
            assert torch.allclose(router_of(model.average), segments[1], atol=1e-7)
            assert torch.equal(model.eval().predict(x), model.average(x))
        model.train()
    # Start at segment 1 (2 ≤ 2.5), threshold 2.25 · 1.5 = 3.375: segments 1 to 3 belong, three losses of 9 end it.
    expected = torch.stack(segments[1:4]).mean(0)
    assert torch.allclose(router_of(model.average), expected, atol=1e-6)
    assert model.valley.over
    assert not model.needs_validation_loss
    assert model.update(minibatches()) == {}
    model.eval()
    assert not torch.equal(model.predict(x), model.network(x))
    other = make("SWAD", "sf_moe_tiny_32")
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval().predict(x), model.predict(x))


def test_the_trainer_tells_swad_the_validation_loss(tmp_path):
    hparams = json.dumps({"batch_size": 4, "swad_n_converge": 1, "swad_n_tolerance": 2, "swad_tolerance_ratio": 9.0})
    spec = RunSpec(dataset="Debug28", algorithm="SWAD", steps=4, checkpoint_freq=1, hparams=hparams)
    train(spec, tmp_path / "run", Execution(device="cpu", num_workers=0))
    records = [json.loads(line) for line in (tmp_path / "run" / "results.jsonl").read_text().splitlines()]
    assert all(record["validation_loss"] > 0 for record in records)
    model = load_model(tmp_path / "run")
    assert model.averaged
    # Every segment is a single update, and all four belong: the mean differs from the last.
    x = torch.rand(2, 3, 28, 28)
    assert not torch.equal(model.predict(x), model.network(x))


def test_other_algorithms_are_told_nothing(tmp_path):
    spec = RunSpec(dataset="Debug28", steps=1, hparams='{"batch_size": 4}')
    train(spec, tmp_path / "run", Execution(device="cpu", num_workers=0))
    assert "validation_loss" not in json.loads((tmp_path / "run" / "results.jsonl").read_text())


# --------------------------------------------------------------------------------------------------- optimisation


def test_sams_two_steps_on_a_quadratic():
    # Loss w²/2 at w = 2: gradient 2, direction 1, so the worst point within 0.5 is 2.5 and the gradient there 2.5.
    weight = nn.Parameter(torch.tensor([2.0]))
    weight.grad = torch.tensor([2.0])
    moves = climb([weight], 0.5)
    assert weight.item() == pytest.approx(2.5)
    assert moves[0][1].item() == pytest.approx(0.5)


def test_sam_climbs_by_rho_in_all_parameters_together():
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    a.grad, b.grad = torch.tensor([3.0]), torch.tensor([4.0])
    climb([a, b, nn.Parameter(torch.zeros(1))], 0.1)
    assert (a.item(), b.item()) == pytest.approx((0.06, 0.08))


def test_sam_without_usable_gradient_stays():
    for gradient in (0.0, float("inf"), float("nan")):
        weight = nn.Parameter(torch.ones(1))
        weight.grad = torch.tensor([gradient])
        climb([weight], 0.1)
        assert weight.item() == 1.0


def test_sam_takes_the_gradient_of_the_worst_point_from_where_it_was():
    model = make("SAM", sam_rho=0.1)
    model.optimizer = torch.optim.SGD(model.network.parameters(), lr=0.1)
    batches = minibatches()
    before = [p.detach().clone() for p in model.network.parameters()]
    gradients = torch.autograd.grad(
        model.objective(model.forward_domains(batches))[0], list(model.network.parameters())
    )
    norm = torch.stack([g.norm() for g in gradients]).norm()
    with torch.no_grad():
        for p, g in zip(model.network.parameters(), gradients, strict=True):
            p.add_(0.1 * g / norm)
    worst = torch.autograd.grad(model.objective(model.forward_domains(batches))[0], list(model.network.parameters()))
    with torch.no_grad():
        for p, value in zip(model.network.parameters(), before, strict=True):
            p.copy_(value)
    model.update(batches)
    for p, value, gradient in zip(model.network.parameters(), before, worst, strict=True):
        assert torch.allclose(p, value - 0.1 * gradient, atol=1e-5)


def test_sam_counts_a_batch_once_in_batch_norm():
    plain, sharp = make("ERM", "test_resnet"), make("SAM", "test_resnet")
    for model in (plain, sharp):
        model.update(minibatches())
    name = "bn1"
    expected, found = (getattr(model.featurizer.network, name) for model in (plain, sharp))
    assert torch.allclose(found.running_mean, expected.running_mean)
    assert found.momentum == expected.momentum


@pytest.mark.parametrize("backbone", ["test_resnet", "sf_moe_tiny_32"])
def test_lpft_leaves_the_backbone_alone_at_first(backbone):
    model = make("LPFT", backbone, linear_steps=2)
    before = {name: value.clone() for name, value in model.featurizer.state_dict().items()}
    head = model.classifier.weight.detach().clone()
    for _ in range(2):
        model.update(minibatches())
    assert all(torch.equal(value, before[name]) for name, value in model.featurizer.state_dict().items())
    assert not torch.equal(model.classifier.weight, head)
    assert model.featurizer.training
    model.update(minibatches())
    assert any(not torch.equal(value, before[name]) for name, value in model.featurizer.state_dict().items())


# ----------------------------------------------------------------------------------------------- features and styles


def test_information_loss_by_hand():
    # Differences 1 and 3 with variances 1 and e: (1 + 0 + 9/e + 1) / 2 entries, halved.
    feature, target = torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2)
    loss = information_loss(feature, target, torch.tensor([[1.0, torch.e]]))
    assert loss.item() == pytest.approx((1 + 9 / torch.e + 1) / 4)


@pytest.mark.parametrize(
    ("shape", "expected"), [((2, 5, 4, 4), (1, 5, 1, 1)), ((2, 7, 5), (1, 1, 5)), ((2, 5), (1, 5))]
)
def test_a_variance_per_channel_starts_at_a_tenth(shape, expected):
    variance = ChannelVariance(torch.zeros(shape))()
    assert variance.shape == expected
    assert torch.allclose(variance, torch.tensor(0.1))


def test_miro_starts_at_no_difference():
    model = make("MIRO", "vit_tiny_32", ld=1.0)
    values = model.update(minibatches())
    # The trained network is still the oracle: only log 0.1 remains, halved, of four stages.
    assert values["reg_loss"] == pytest.approx(4 * torch.log(torch.tensor(0.1)).item() / 2, rel=1e-4)
    assert model.update(minibatches())["reg_loss"] > values["reg_loss"]


def test_miro_learns_variances_faster_and_leaves_the_oracle():
    model = make("MIRO", lr_mult=10.0)
    assert [group["lr"] for group in model.optimizer.param_groups] == pytest.approx([1e-3, 1e-2])
    before = {name: value.clone() for name, value in model.oracle.state_dict().items()}
    model.update(minibatches())
    assert all(torch.equal(value, before[name]) for name, value in model.oracle.state_dict().items())
    assert not model.oracle.training


@pytest.mark.parametrize(
    ("backbone", "count"),
    [("resnet18", 5), ("mnist_cnn", 4), ("vit_tiny_32", 4), ("sf_moe_tiny_32", 4), ("wide_net_tiny_32", 4)],
)
def test_stages(backbone, count):
    network = make("ERM", backbone).featurizer.network
    with recorded_stages(network) as recorded:
        network(torch.rand(2, 3, 32, 32))
    assert len(recorded) == count
    assert bool(conv_stages(network)) != bool(transformer_stages(network))
    with recorded_stages(network):
        pass
    network(torch.rand(2, 3, 32, 32))
    assert len(recorded) == count


def test_a_mixed_style_by_hand():
    # One channel of two positions: (1, 3): mean 2, deviation √2; (10, 30): mean 20, deviation √200.
    x = torch.tensor([[[[1.0, 3.0]]], [[[10.0, 30.0]]]])
    mixed = mix_styles(x, torch.tensor([1, 0]), torch.tensor([0.25, 1.0])[:, None, None, None])
    # A quarter of its own: mean 0.25·2 + 0.75·20 = 15.5, deviation √2·(0.25 + 7.5), so 15.5 ∓ 7.75; all its own.
    assert mixed.flatten().tolist() == pytest.approx([7.75, 23.25, 10.0, 30.0], rel=1e-4)


def test_the_other_domain_is_another():
    domains = torch.tensor([0, 0, 1, 2])
    for _ in range(20):
        assert (domains[other_domain(domains)] != domains).all()
    assert other_domain(torch.zeros(3, dtype=torch.int64)).shape == (3,)


@pytest.mark.parametrize("mix", ["random", "crossdomain"])
def test_mix_style_mixes_in_training_only(mix):
    model = make("MixStyle", mixstyle_p=1.0, mixstyle_mix=mix)
    batches = minibatches()
    x = torch.cat([x for x, _ in batches])
    clean = model.eval().predict(x)
    assert torch.equal(model.predict(x), clean)
    mixed = model.train().forward_domains(batches).all_logits
    assert not torch.allclose(mixed, clean, atol=1e-4)
    never = make("MixStyle", mixstyle_p=0.0)
    assert torch.allclose(never.train().forward_domains(batches).all_logits, clean, atol=1e-5)


@pytest.mark.parametrize("backbone", ["vit_tiny_32", "sf_moe_tiny_32"])
def test_mix_style_refuses_transformers(backbone):
    with pytest.raises(UserError, match="use resnet18"):
        make("MixStyle", backbone)
