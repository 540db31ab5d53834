"""Upstream's adversarial, style and bottleneck objectives: against DomainBed's numbers, then parts by hand.

How the golden numbers were made: DomainBed at b93c22a, its own classes, through ``trajectories.py`` beside this file,
float32 on a CPU, PyTorch 2.15: the class built with DomainBed's defaults for RotatedMNIST, ``COMMON`` and the overrides
in the file (for ``mnist_cnn`` mostly a smaller learning rate, so that rounding in another order, as on another
processor, moves predictions by less than 1e-5; in float64 all agree to 1e-12), ``set_weights`` on its parameters, five
updates. ERMPlusPlus averaged from update 3 on instead of 600. Torch was seeded with 99 before the prediction, in which
MTL draws. Names with a colon are further settings of the same algorithm. The golden draws are the hyper-parameters of
upstream's ``default_hparams`` and of ``random_hparams`` at seeds 0 to 19: digests of all, and the numbers of two.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import trajectories
from torch import nn

from sfmoe_dg.algorithms.objectives.adrmx import contrastive_loss
from sfmoe_dg.algorithms.objectives.arm import ARM
from sfmoe_dg.algorithms.objectives.cad import BASE_TEMPERATURE
from sfmoe_dg.algorithms.objectives.dann import class_balanced_weights
from sfmoe_dg.algorithms.objectives.erm_plus_plus import LARS
from sfmoe_dg.algorithms.objectives.rsc import percentile
from sfmoe_dg.algorithms.objectives.sagnet import randomize_content, randomize_style
from sfmoe_dg.algorithms.objectives.transfer import project_into_ball
from sfmoe_dg.algorithms.registry import ALGORITHMS, default_hparams
from sfmoe_dg.algorithms.shared.adversaries import takes_discriminator_turn
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.runs.spec import RunSpec
from sfmoe_dg.training.prepare import Execution, prepare

GOLDEN = trajectories.read_golden("golden_trajectories_adversarial.json")
IN_FLOAT64 = {("RSC:more", "mnist_cnn")}
"""Compared in float64 (1e-6 from upstream's float32): in float32 some processors' convolutions end 2e-5 elsewhere."""


@pytest.mark.parametrize(("case", "kind"), [(case, kind) for case, kinds in GOLDEN.items() for kind in kinds])
def test_five_updates_end_where_upstreams_do(case, kind):
    name = case.partition(":")[0]
    expected = GOLDEN[case][kind]
    algorithm = trajectories.make(name, kind, expected["hparams"])
    if (case, kind) in IN_FLOAT64:
        algorithm.double()
    if name == "ERMPlusPlus":
        algorithm.average.start = 3
    predict = algorithm.predict

    def seeded(x):
        torch.manual_seed(99)
        return predict(x)

    algorithm.predict = seeded
    predictions = trajectories.predictions_after_updates(algorithm, kind)
    np.testing.assert_allclose(predictions, expected["predictions"], rtol=0, atol=1e-5)


def make(name, num_domains=2, shape=(4,), **overrides):
    torch.manual_seed(0)
    small = {"backbone": "mlp", "mlp_width": 8, "mlp_depth": 3, "mlp_dropout": 0.0} if len(shape) == 1 else {}
    hparams = default_hparams(name, "StyledDigits") | small | overrides
    return ALGORITHMS.load(name)(shape, 3, num_domains, hparams)


def minibatches(num_domains=2, size=6):
    generator = torch.Generator().manual_seed(1)
    return [(torch.rand(size, 4, generator=generator), torch.arange(size) % 3) for _ in range(num_domains)]


def test_turns_begin_with_what_is_left_of_the_first_round():
    # Counted from 1; with two discriminator steps to one of the network: 1 D, 2 N, 3 D, 4 D, 5 N
    turns = [takes_discriminator_turn(torch.tensor([count]), 2) for count in range(1, 6)]
    assert turns == [True, False, True, True, False]


def test_class_balanced_weights_by_hand():
    # Class 1 twice, class 2 once, class 0 never, so that the sum is 2 of 3.
    assert class_balanced_weights(torch.tensor([1, 1, 2])).tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 3])


def test_the_discriminators_turn_moves_nothing_else():
    model = make("DANN", d_steps_per_g_step=1)
    model.update_count += 1
    before = {name: value.clone() for name, value in model.named_parameters()}
    assert list(model.update(minibatches())) == ["disc_loss"]
    changed = {name.split(".")[0] for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {"discriminator"}


def test_dann_adapts_to_unlabeled_images_if_told_to():
    unlabeled = [torch.rand(6, 4)]
    plain, adapting = make("DANN"), make("DANN", adapt=True)
    assert ALGORITHMS.load("DANN").uses_unlabeled
    assert plain.discriminator.num_features == 2
    assert adapting.discriminator.num_features == 3
    assert plain.update(minibatches(), unlabeled) == make("DANN").update(minibatches())
    assert "gen_loss" in adapting.update(minibatches(), unlabeled)
    with pytest.raises(UserError, match="domain_adaptation"):
        adapting.update(minibatches())


def test_mtl_without_noise_predicts_from_means():
    model = make("MTL", mtl_noise=False, mtl_ema=0.5).eval()
    x, y = minibatches()[0]
    features = model.featurizer(x)
    expected = model.classifier(torch.cat([features, features.mean(0).expand_as(features)], 1))
    assert torch.equal(model.predict(x), expected)
    # Half of the batch's mean, half of the zeros before it.
    model.train().update([(x, y), (x, y)])
    assert torch.allclose(model.embeddings[1], 0.5 * features.mean(0))


def test_style_and_content_keep_what_they_say():
    x = torch.randn(5, 40, generator=torch.Generator().manual_seed(2)) * torch.arange(1, 6)[:, None] + 3
    torch.manual_seed(4)
    styled = randomize_style(x)
    # The same content: every row a stretched and shifted copy of itself.
    normal = (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)
    assert torch.allclose((styled - styled.mean(1, keepdim=True)) / styled.std(1, keepdim=True), normal, atol=1e-4)
    torch.manual_seed(4)
    swapped = randomize_content(x)
    assert torch.allclose(swapped.mean(1), x.mean(1), atol=1e-4)
    assert torch.allclose(swapped.std(1), x.std(1), atol=1e-3)


def test_arm_context_is_the_mean_of_its_support_set():
    model = make("ARM", shape=(1, 28, 28), batch_size=2).eval()
    x = torch.rand(4, 1, 28, 28)
    context = model.context_net(x)
    with_context = model.with_context(x)
    assert torch.equal(with_context[:, :1], x)
    assert torch.allclose(with_context[0, 1:], context[:2].mean(0), atol=1e-6)
    assert torch.equal(with_context[2, 1:], with_context[3, 1:])
    assert not torch.equal(with_context[1, 1:], with_context[2, 1:])
    # Three images do not divide into pairs: one set.
    assert torch.allclose(model.with_context(x[:3])[0, 1:], context[:3].mean(0), atol=1e-6)


@pytest.mark.parametrize("trains", [False, True])
def test_arm_takes_gradients_of_its_context_network_only_to_train_it(trains):
    model = make("ARM", shape=(1, 28, 28), arm_train_context=trains)
    x = torch.rand(6, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    before = model.context_net[0].weight.detach().clone()
    model.update([(x, torch.arange(6) % 3)] * 2)
    gradients = [parameter.grad for parameter in model.context_net.parameters()]
    assert all((gradient is not None) is trains for gradient in gradients)
    assert torch.equal(model.context_net[0].weight, before) is not trains


def test_arm_normalises_pictures_as_its_backbone_does():
    hparams = default_hparams("ARM", "PACS") | {"backbone": "resnet18", "pretrained": False}
    model = ARM((3, 64, 64), 7, 3, hparams)
    assert model.input_shape == (3, 64, 64)
    assert [len(values) for values in model.normalization] == [3, 3]
    assert model.normalization[0] == pytest.approx((0.485, 0.456, 0.406))


def test_evaluation_shuffles_for_what_predicts_in_context():
    spec = RunSpec(dataset="Debug28", algorithm="ARM", hparams='{"batch_size": 4}')
    setup = prepare(spec, Execution(device="cpu", num_workers=0, eval_batch_size=5))
    batches = [batch.indices for batch in setup.eval_loader.batches(0, [1])]
    again = [batch.indices for batch in setup.eval_loader.batches(7, [1])]
    setup.close()
    order = np.concatenate(batches)
    assert sorted(order) == list(setup.splits[1].used)
    assert list(order) != sorted(order)
    assert list(np.concatenate(again)) == list(order)


def test_arm_refuses_vectors():
    with pytest.raises(UserError, match="needs pictures"):
        make("ARM")


@pytest.mark.parametrize("size", [2, 3, 16, 31, 64])
@pytest.mark.parametrize("fraction", [2 / 3, 0.5, 0.75, 0.93])
def test_percentile_cuts_where_numpys_does(size, fraction):
    values = torch.randn(3, size, generator=torch.Generator().manual_seed(size))
    expected = torch.as_tensor(np.percentile(values.numpy(), fraction * 100, axis=1)).unsqueeze(1)
    assert torch.allclose(percentile(values, fraction), expected.float(), atol=1e-6)


def bottleneck(name, **overrides):
    # Three images: two of class 0 in domains 0 and 1, one of class 1 in domain 0. Products over temperature 1:
    # (0, 1): 2, (0, 2): 1, (1, 2): 0.
    model = make(name, temperature=1.0, **overrides)
    features = torch.tensor([[1.0, 1.0, 0.0], [2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    return model.bottleneck(features, torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0])).item() * BASE_TEMPERATURE


def test_bottlenecks_by_hand():
    e = np.exp
    # Image 2 has no partner of its class. Image 0 picks image 1 of another domain from {1, 2}: e² / (e² + e); image 1
    # has only other domains: probability 1.
    assert bottleneck("CAD") == pytest.approx(-np.log(e(2) / (e(2) + e(1))) / 2, rel=1e-5)
    # From its own domain image 0 picks image 2, or, as upstream counts, itself with similarity 0; image 1 only itself.
    own = (np.log((e(1) + 1) / (e(2) + e(1))) + np.log(1 / (e(2) + 1))) / 2
    assert bottleneck("CAD", is_flipped=False) == pytest.approx(own, rel=1e-5)
    # Within class 0 there is one partner, of another domain: probability 1, and none of the same domain.
    assert bottleneck("CondCAD") == pytest.approx(0, abs=1e-6)
    assert bottleneck("CondCAD", is_flipped=False) == 0


def test_a_projection_is_trained():
    model = make("CAD", is_project=True)
    before = model.project[0].weight.clone()
    model.update(minibatches())
    assert not torch.equal(model.project[0].weight, before)


def test_projection_into_a_ball():
    centre, near, far = nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 1)
    for layer, (weight, bias) in ((centre, (1.0, 1.0)), (near, (1.3, 1.4)), (far, (4.0, 5.0))):
        nn.init.constant_(layer.weight, weight)
        nn.init.constant_(layer.bias, bias)
    # Distances 0.5 and 5; the latter shrinks to 1: (3, 4) / 5 from the centre.
    for layer in (near, far):
        project_into_ball(layer, centre, 1.0)
    assert (near.weight.item(), near.bias.item()) == pytest.approx((1.3, 1.4))
    assert (far.weight.item(), far.bias.item()) == pytest.approx((1.6, 1.8))


def test_transfer_with_gda_trains_the_network():
    model = make("Transfer", gda=True, lr=0.1)
    before = model.featurizer.network.input.weight.clone()
    model.update(minibatches())
    assert not torch.equal(model.featurizer.network.input.weight, before)


def test_contrastive_loss_by_hand():
    # Unit vectors, temperature 1: images 0 and 1 of class 0 are alike (1), image 2 of class 1 at right angles (0).
    features = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    loss = contrastive_loss(features, torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0]), temperature=1.0)
    share = 0.5 * np.e / (0.5 * np.e + 0.5 + 1e-5)
    # Two images with a partner, over two plus one.
    assert loss.item() == pytest.approx(-2 * np.log(share + 1e-5) / 3, rel=1e-5)
    assert contrastive_loss(features, torch.tensor([0, 1, 2]), torch.zeros(3)).item() == 0


def test_remix_takes_one_class_if_told_to():
    # Class 1 sits at the end of the batch: upstream's numbering reads the batch's first two images instead.
    labels = torch.tensor([0, 2, 1, 1])
    for within, wanted in ((False, {0, 2}), (True, {1})):
        model = make("ADRMX", remix_within_class=within)
        seen = []
        model.classifier.register_forward_hook(lambda m, args, out, seen=seen: seen.append(args[0]))
        model._remix_loss(labels[:, None].expand(4, 8).float(), torch.zeros(4, 8), labels)
        assert set(seen[0][:, 0].tolist()) <= {float(label) for label in wanted}


def test_a_batch_without_pairs_has_no_remix():
    model = make("ADRMX")
    assert model._remix_loss(torch.rand(3, 8), torch.rand(3, 8), torch.arange(3)).item() == 0


def test_urm_ends_features_in_the_noises_range():
    for output, low in (("tanh", -1), ("relu", 0), ("sigmoid", 0)):
        model = make("URM", urm_generator_output=output)
        features = model.featurizer(10 * torch.randn(20, 4))
        assert features.min() >= low
        assert model.lowest == low


def test_erm_plus_plus_trains_the_classifier_first():
    model = make("ERMPlusPlus", linear_steps=1)
    first = model.featurizer.network.input.weight.clone()
    for expected in (True, True, False):
        model.update(minibatches())
        assert torch.equal(model.featurizer.network.input.weight, first) is expected


def test_lars_by_hand():
    matrix, bias = nn.Parameter(torch.tensor([[3.0, 4.0]])), nn.Parameter(torch.tensor([1.0]))
    optimizer = LARS([matrix, bias], lr=1.0, weight_decay=0.0)
    matrix.grad, bias.grad = torch.tensor([[0.0, 2.0]]), torch.tensor([0.5])
    optimizer.step()
    # Weight norm 5, gradient norm 2: the step is 0.001 · 5 / 2 of the gradient; the bias takes its gradient whole.
    assert matrix[0].tolist() == pytest.approx([3.0, 4 - 0.005])
    assert bias.item() == pytest.approx(0.5)
    optimizer.step()
    # Momentum 0.9 of the last step and one more.
    assert bias.item() == pytest.approx(0.5 - (0.9 * 0.5 + 0.5))


def test_erm_plus_plus_with_lars_trains():
    model = make("ERMPlusPlus", lars=True, linear_steps=0)
    before = model.featurizer.network.input.weight.clone()
    for _ in range(2):
        model.update(minibatches())
    assert not torch.equal(model.featurizer.network.input.weight, before)


def test_rsc_mutes_the_features_that_matter_most():
    model = make("RSC", rsc_f_drop_factor=0.5, rsc_b_drop_factor=0.5)
    # One-hot classifier rows: features 0 to 3 raise class 0 by 4, 3, 2, 1.
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.weight[0] = torch.tensor([4.0, 3.0, 2.0, 1.0, 0.0, -1.0, -2.0, -3.0])
    features = torch.tensor([[1.0] * 8, [0.1] * 8], requires_grad=True)
    kept = model._kept(features, model.classifier(features), torch.tensor([0, 0]))
    # The first image loses more by muting its upper half; the second, below the median loss, is spared.
    assert kept.tolist() == [[0.0] * 4 + [1.0] * 4, [1.0] * 8]


def test_sagnet_style_is_not_learned_by_the_featurizer():
    model = make("SagNet", sag_w_adv=0.0)
    x, y = minibatches()[0]
    assert set(model.update([(x, y)])) == {"loss_c", "loss_s", "loss_adv"}
    assert F.cross_entropy(model.predict(x), y).isfinite()
