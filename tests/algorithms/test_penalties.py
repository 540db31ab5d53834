"""The parts of the objectives that compare domains, by hand; whole updates are in ``test_trajectories.py``."""

import math

import pytest
import torch
import torch.nn.functional as F
import trajectories
from objective_makers import make
from torch import nn

from sfmoe_dg.algorithms.base import Forward
from sfmoe_dg.algorithms.objectives.eqrm import quantile
from sfmoe_dg.algorithms.objectives.ib_erm import bottleneck
from sfmoe_dg.algorithms.objectives.irm import invariance_penalty
from sfmoe_dg.algorithms.objectives.mixup import neighbours_in_a_random_ring
from sfmoe_dg.algorithms.objectives.self_reg import two_shuffles_within
from sfmoe_dg.algorithms.objectives.trm import inverse_hessian_times
from sfmoe_dg.algorithms.registry import ALGORITHMS, default_hparams, hparam_table
from sfmoe_dg.algorithms.shared.domains import same_length
from sfmoe_dg.algorithms.shared.gradients import gradients
from sfmoe_dg.algorithms.shared.kernels import gaussian_mmd
from sfmoe_dg.algorithms.shared.precision import Precision
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.runs.hparams import check_overrides


def test_invariance_penalty():
    # two classes, logits (a, 0) and label 0: risk log(1 + exp(-a s)), derivative by s at 1 -a / (1 + exp(a))
    logits = torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    even, odd = (-a / (1 + math.exp(a)) for a in (1.0, 2.0))
    assert invariance_penalty(logits, torch.tensor([0, 0])).item() == pytest.approx(even * odd)
    assert invariance_penalty(logits, torch.tensor([0, 1])).item() < 0  # the halves pull in opposite directions


def test_gaussian_mmd():
    a, b = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0]])
    # squared distances: within a 0, 1, 1, 0; within b 0; between 4, 1
    expected = (2 + 2 * math.exp(-1)) / 4 + 1 - 2 * (math.exp(-4) + math.exp(-1)) / 2
    assert gaussian_mmd(a, b, gammas=(1.0,)).item() == pytest.approx(expected, rel=1e-6)
    assert gaussian_mmd(a, a).item() == pytest.approx(0, abs=1e-6)


def test_bottleneck_is_the_variance_within_domains_not_between():
    features = [torch.tensor([[0.0, 1.0], [2.0, 1.0]]), torch.tensor([[9.0, 9.0], [9.0, 9.0]])]
    assert bottleneck(Forward(features, [], [], {})) == 0.5  # ((2 + 0) / 2 + 0) / 2


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.75, 0.99])
def test_quantile_of_a_kernel_density(probability):
    risks = torch.tensor([0.3, 1.2, 0.7], requires_grad=True)
    value = quantile(risks, probability)
    bandwidth = 1.06 * risks.std() * 3**-0.2
    assert torch.distributions.Normal(risks, bandwidth).cdf(value).mean().item() == pytest.approx(probability, abs=1e-5)
    value.backward()
    # moving all risks moves the quantile as much
    assert risks.grad.sum().item() == pytest.approx(1, abs=1e-5)
    assert quantile(torch.tensor([0.4, 0.4]), probability).item() == pytest.approx(0.4)


def test_fishr_takes_the_variance_of_the_gradients_of_single_images():
    model = make("Fishr", "mnist_cnn", ema=0.0)
    features, labels = [torch.randn(4, 128) for _ in range(3)], [torch.randint(10, (4,)) for _ in range(3)]
    variances = []
    for z, y in zip(features, labels, strict=True):
        of_images = []
        for i in range(4):
            risk = F.cross_entropy(model.classifier(z[i : i + 1]), y[i : i + 1])
            found = torch.autograd.grad(risk, list(model.classifier.parameters()))
            of_images.append(torch.cat([g.flatten() for g in found]))
        variances.append(torch.stack(of_images).var(0, correction=0))
    stacked = torch.stack(variances)
    expected = (stacked - stacked.mean(0)).square().mean()
    logits = [model.classifier(z) for z in features]
    _, logged = model.objective(Forward(features, logits, labels, {}))
    assert logged["penalty"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_fishr_with_a_nonlinear_classifier_trains():
    model = make("Fishr", "mnist_cnn", nonlinear_classifier=True, penalty_anneal_iters=0)
    batch = [(torch.rand(3, 3, 32, 32), torch.tensor([0, 1, 2])) for _ in range(3)]
    assert math.isfinite(model.update(batch)["penalty"])


def test_and_mask_keeps_what_all_agree_on_and_scales_it_up():
    model = make("ANDMask", "mnist_cnn")
    by_domain = torch.tensor([[1.0, 1.0], [3.0, -1.0], [2.0, 3.0]])
    assert model.mask(by_domain).tolist() == [1, 0]
    # mean gradients 2 and 1; half of the entries are kept
    assert model._masked_mean(by_domain).tolist() == pytest.approx([4, 0])


def test_sand_mask_by_hand():
    model = make("SANDMask", "mnist_cnn", tau=0.25, k=2.0)
    by_domain = torch.tensor([[1.0, 1.0, 5.0], [3.0, -1.0, 5.0]])
    # agreements 1, 0, 1; variances 2, 2, 0: the last mask is tanh(infinity)
    assert model.mask(by_domain).tolist() == pytest.approx([math.tanh(2 / 2 * 0.75), 0, 1])
    assert model.mask(by_domain[:1]).tolist() == [1, 1, 1]


def test_group_dro_weighs_the_worst_domain_most():
    model = make("GroupDRO", "mnist_cnn", num_domains=2, groupdro_eta=1.0)
    good, bad = torch.tensor([[9.0, 0.0]]), torch.tensor([[0.0, 9.0]])
    label = torch.tensor([0])
    loss, _ = model.objective(Forward([good, bad], [good, bad], [label, label], {}))
    small, large = F.cross_entropy(good, label), F.cross_entropy(bad, label)
    assert model.q.tolist() == pytest.approx(torch.stack([small, large]).softmax(0).tolist())
    assert loss.item() == pytest.approx((model.q[0] * small + model.q[1] * large).item())


def test_mixup_pairs_every_domain_with_another_and_cuts_to_the_shorter():
    pairs = list(neighbours_in_a_random_ring(4))
    assert sorted(i for i, _ in pairs) == sorted(j for _, j in pairs) == [0, 1, 2, 3]
    assert all(i != j for i, j in pairs)
    long, short = (torch.zeros(3, 1), torch.zeros(3)), (torch.zeros(2, 1), torch.zeros(2))
    assert [len(t) for pair in same_length(long, short) for t in pair] == [2, 2, 2, 2]


def test_shuffles_stay_within_a_class():
    labels = torch.tensor([0, 0, 0, 2, 3, 3])
    for order in two_shuffles_within(labels):
        assert labels[order].equal(labels)
        assert sorted(order.tolist()) == list(range(6))


def test_neumann_series_of_a_head():
    """With H the Hessian and v_n = (1 - H)^n v: upstream's sum is 2 v_1 + v_2 + ... + v_10."""
    torch.manual_seed(0)
    head, x, y = nn.Linear(2, 2), torch.randn(5, 2), torch.randint(2, (5,))

    def risk(weight):
        return F.cross_entropy(F.linear(x, weight.view(2, 2), head.bias), y)

    step = torch.eye(4) - torch.autograd.functional.hessian(risk, head.weight.detach().flatten())
    vector = torch.tensor([0.1, 0.2, -0.1, 0.3])
    terms = [torch.linalg.matrix_power(step, n) @ vector for n in range(1, 11)]
    torch.testing.assert_close(inverse_hessian_times(vector, head, x, y), terms[0] + torch.stack(terms).sum(0))


@pytest.mark.parametrize(("n_meta_test", "num_domains", "num_pairs"), [(1, 3, 2), (2, 3, 1), (2, 2, 1)])
def test_mldg_always_has_a_domain_to_train_on(n_meta_test, num_domains, num_pairs):
    model = make("MLDG", "mnist_cnn", num_domains=num_domains, n_meta_test=n_meta_test)
    pairs = model._pairs()
    assert len(pairs) == num_pairs
    assert {i for i, _ in pairs}.isdisjoint(j for _, j in pairs)


def test_mldg_keeps_running_statistics():
    model = make("MLDG", "test_resnet", n_meta_test=1)
    model.update([(torch.rand(2, 3, 32, 32), torch.tensor([0, 1])) for _ in range(3)])
    statistics = [value for name, value in model.network.named_buffers() if name.endswith("running_mean")]
    assert all(value.abs().sum() > 0 for value in statistics)


def test_a_penalty_that_sets_in_restarts_the_optimiser_at_its_own_rate():
    overrides = {"backbone": "mlp", "rdm_penalty_anneal_iters": 1, "rdm_lr": 0.25, "lr": 0.5}
    model = trajectories.make("RDM", "mlp", overrides)
    first = model.optimizer
    rates = []
    for step in range(3):
        model.update(trajectories.minibatches("mlp", step))
        rates.append(model.optimizer.param_groups[0]["lr"])
    assert rates == [0.5, 0.25, 0.25]
    assert model.optimizer is not first
    model.schedule(1, 2)
    assert model.optimizer.param_groups[0]["lr"] == 0.25


def test_gradients_do_not_show_the_scale_of_float16():
    weight = nn.Parameter(torch.tensor([2.0]))
    unused = nn.Parameter(torch.tensor([1.0]))
    for name in ("fp32", "fp16"):
        found = gradients((3 * weight).sum(), [weight, unused], Precision(name, "cpu"))
        assert [g.item() for g in found] == [3, 0]


NEED_TWO_IMAGES = ("CORAL", "IRM", "IB_ERM", "IB_IRM", "RDM", "SelfReg")


@pytest.mark.parametrize("name", NEED_TWO_IMAGES)
def test_minibatches_of_one_image_are_refused(name):
    hparams = default_hparams(name, "PACS") | {"batch_size": 1}
    with pytest.raises(UserError, match=r"batch_size.*at least 2"):
        ALGORITHMS.load(name).check_hparams(hparams, "hparams")


@pytest.mark.parametrize(
    ("name", "overrides", "named"),
    [
        ("EQRM", {"eqrm_quantile": 1.0}, "eqrm_quantile"),
        ("Fishr", {"ema": 1.0}, "ema"),
        ("Mixup", {"mixup_alpha": 0.0}, "mixup_alpha"),
        ("MLDG", {"n_meta_test": 0}, "n_meta_test"),
        ("EQRM", {"eqrm_lr": -1e-6}, "eqrm_lr"),
        ("RDM", {"rdm_lr": -1e-6}, "rdm_lr"),
        ("URM", {"urm_discriminator_lr": -1.0}, "urm_discriminator_lr"),
        ("URM", {"urm_discriminator_label_smoothing": 1.5}, "urm_discriminator_label_smoothing"),
        ("CAD", {"temperature": 0.0}, "temperature"),
        ("CondCAD", {"temperature": -0.1}, "temperature"),
        ("ADRMX", {"d_steps_per_g_step": -1}, "d_steps_per_g_step"),
        ("ADRMX", {"d_steps_per_g_step": 0}, "d_steps_per_g_step"),
        ("DANN", {"d_steps_per_g_step": 0}, "d_steps_per_g_step"),
        ("MixStyle", {"mixstyle_p": 1.5}, "mixstyle_p"),
        ("MTL", {"mtl_ema": -0.5}, "mtl_ema"),
    ],
)
def test_values_that_cannot_work_are_refused(name, overrides, named):
    with pytest.raises(UserError, match=named):
        check_overrides(hparam_table(name, "PACS"), overrides, "hparams")


def test_trm_refuses_a_nonlinear_classifier():
    with pytest.raises(UserError, match="linear classifier"):
        make("TRM", "mnist_cnn", nonlinear_classifier=True)
