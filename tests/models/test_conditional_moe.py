"""Conditional mixtures of experts: gates, shared routes, and merging, which changes only the cost."""

import pytest
import timm
import torch
from conditional_makers import DOMAINS, MERGED, pictures, record, set_merge, tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import sfmoe_dg.models.backbones  # noqa: F401
from sfmoe_dg.algorithms.registry import ALGORITHMS, default_hparams
from sfmoe_dg.data.catalog import CATALOG, DOMAIN_ATTRIBUTES
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.models.backbones import build_backbone
from sfmoe_dg.models.moe.conditional_layers import ConditionalMoE, merge
from sfmoe_dg.models.moe.conditions import LEVELS, attribute_conditions, kinds, task_conditions
from sfmoe_dg.models.moe.layers import LinearExperts, moe_layers


def test_merge_by_hand():
    experts = LinearExperts(2, 1, 2)
    with torch.no_grad():
        experts.weight.copy_(torch.tensor([[[1.0, 2.0]], [[3.0, 5.0]]]))
        experts.bias.copy_(torch.tensor([[0.0, 4.0], [8.0, 0.0]]))
    weight, bias = merge(experts, torch.tensor([[0.25, 0.75], [1.0, 0.0]]))
    # 0.25 · 1 + 0.75 · 3 = 2.5;  0.25 · 2 + 0.75 · 5 = 4.25;  the second route takes the first expert alone
    assert weight.tolist() == [[[2.5, 4.25]], [[1.0, 2.0]]]
    assert bias.tolist() == [[6.0, 1.0], [0.0, 4.0]]


@pytest.mark.parametrize("policy", ["mean", "predicted"])
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("level", MERGED)
def test_merged_is_unmerged(level, known, policy):
    model = tiny(level, unknown_domain=policy)
    outputs, grads = [], []
    for merged in (True, False):
        set_merge(model, merged)
        model.zero_grad()
        torch.manual_seed(2)  # the same noise on the gates
        y, _ = model.forward_with_losses(pictures(), DOMAINS if known else None)
        y.square().sum().backward()
        outputs.append(y)
        grads.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-12)
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], rtol=1e-8, atol=1e-11)
    assert any(".experts." in name and grad.any() for name, grad in grads[0].items())


@settings(max_examples=15, deadline=None)
@given(
    num_experts=st.integers(2, 5),
    top_k=st.integers(1, 2),
    domains=st.lists(st.integers(0, 2), min_size=1, max_size=5),
    seed=st.integers(0, 1000),
)
def test_merged_is_unmerged_for_any_sizes(num_experts, top_k, domains, seed):
    x, known = pictures(len(domains)), torch.tensor(domains)
    model = tiny("task", seed, num_experts=num_experts, top_k=top_k).eval()
    with torch.no_grad():
        merged = model(x, domains=known)
        set_merge(model, False)
        torch.testing.assert_close(merged, model(x, domains=known), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("level", LEVELS)
def test_gates_sum_to_one(level):
    for training in (True, False):
        for known in (DOMAINS, None):
            model = tiny(level).train(training)
            routings = record(model, pictures(), domains=known)
            assert len(routings) == 4  # attention and FFN of blocks 0 and 2
            for routing in routings.values():
                torch.testing.assert_close(routing.gates_TK.sum(-1), torch.ones(4 * 17, dtype=torch.float64))
                if known is not None or level not in ("task", "attribute"):
                    assert routing.gates_TK.shape == (4 * 17, 2)


def test_equal_attributes_give_equal_routes_for_every_token_and_image():
    model = tiny("attribute")  # in training: the noise is shared too
    kind = kinds(4, 17, 1, torch.device("cpu")).flatten()
    # Domains 0 and 2 are described alike, domain 1 is not; the class token (kind 0) has a route of its own.
    condition = torch.tensor([0, 1, 1, 0]).repeat_interleave(17) * 2 + kind
    for routing in record(model, pictures(), domains=DOMAINS).values():
        for value in condition.unique():
            same = condition == value
            assert (routing.experts_TK[same] == routing.experts_TK[same][0]).all()
            assert (routing.gates_TK[same] == routing.gates_TK[same][0]).all()


@pytest.mark.parametrize(("level", "routes"), [("modality", 2), ("task", 3)])
def test_number_of_distinct_routes(level, routes):
    for routing in record(tiny(level), pictures(), domains=DOMAINS).values():
        assert len(routing.probs_TE.unique(dim=0)) == routes


def test_content_levels_route_by_token():
    model = tiny("context").eval()
    x = pictures()
    (routing, *_) = record(model, x).values()
    assert len(routing.probs_TE.unique(dim=0)) > 17
    other = x.clone()
    other[0, :, 16:] = 0
    changed = record(model, other)["blocks.0.attn"].probs_TE.view(4, 17, 8)
    # One half of the first picture changed: its mean changes the routes of its other half, but no other picture's.
    assert not torch.equal(changed[0, 1:5], routing.probs_TE.view(4, 17, 8)[0, 1:5])
    assert torch.equal(changed[1:], routing.probs_TE.view(4, 17, 8)[1:])


def test_conditions_by_hand():
    kind = kinds(2, 3, 1, torch.device("cpu"))
    assert kind.tolist() == [[0, 1, 1], [0, 1, 1]]
    known = task_conditions(3, torch.tensor([2, 0]), kind)
    assert known.index_T.tolist() == [2, 2, 2, 0, 0, 0]
    mean = task_conditions(4, None, kind)
    assert mean.index_T.tolist() == [0] * 6
    assert mean.mixture_RN.tolist() == [[0.25] * 4]
    bits, alias = torch.tensor([[1.0], [0.0], [1.0]]), torch.tensor([0, 1, 0])
    described = attribute_conditions(bits, alias, torch.tensor([2, 1]), kind)
    # Rows: domain 0's class token, its patches, domain 1's, … Domain 2 is described like domain 0.
    assert described.inputs_N.tolist() == [[1, 1], [1, 0], [0, 1], [0, 0], [1, 1], [1, 0]]
    assert described.index_T.tolist() == [0, 1, 1, 2, 3, 3]
    mixture = attribute_conditions(bits, alias, None, kind).mixture_RN
    torch.testing.assert_close(mixture, torch.tensor([[2.0, 0, 1, 0, 0, 0], [0, 2, 0, 1, 0, 0]]) / 3)


def test_unknown_domains_get_the_mean_of_the_gates():
    model = tiny("task").eval()
    gates = []
    for domain in range(3):
        routing = record(model, pictures(1), domains=torch.tensor([domain]))["blocks.0.attn"]
        gates.append(torch.zeros(8, dtype=torch.float64).scatter(0, routing.experts_TK[0], routing.gates_TK[0]))
    routing = record(model, pictures(1))["blocks.0.attn"]
    mean = torch.zeros(8, dtype=torch.float64).scatter(0, routing.experts_TK[0], routing.gates_TK[0])
    torch.testing.assert_close(mean, torch.stack(gates).mean(0))


def test_predicted_domains():
    model = tiny("task", unknown_domain="predicted")
    nn.init.zeros_(model.domain_classifier.weight)
    with torch.no_grad():
        model.domain_classifier.bias.copy_(torch.tensor([0.0, 0.0, 1.0]))
    x = pictures()
    loss = model.forward_with_losses(x, DOMAINS)[1]["domain_prediction"]
    expected = nn.functional.cross_entropy(torch.tensor([[0.0, 0.0, 1.0]] * 4), DOMAINS)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    loss.backward()
    assert model.patch_embed.proj[0].weight.grad is None
    model.eval()
    torch.testing.assert_close(model(x), model(x, domains=torch.full((4,), 2)))
    assert model.forward_with_losses(x, DOMAINS)[1] == {}


def test_an_attention_mask_holds_with_gradient_checkpointing():
    model, x = tiny("task"), pictures()
    mask = torch.tril(torch.ones(17, 17)).bool()
    torch.manual_seed(3)
    free = model(x, domains=DOMAINS)
    torch.manual_seed(3)
    masked = model(x, attn_mask=mask, domains=DOMAINS)
    model.set_grad_checkpointing(True)
    torch.manual_seed(3)
    recomputed = model(x, attn_mask=mask, domains=DOMAINS)
    torch.testing.assert_close(recomputed, masked)
    assert not torch.allclose(masked, free)


@pytest.mark.parametrize("level", LEVELS)
def test_timm_interface(level):
    model = tiny(level, routing_loss="assignments").eval()
    x = pictures()
    tokens = model.forward_features(x)
    assert tokens.shape == (4, 17, 64)
    torch.testing.assert_close(model.forward_head(tokens), model(x))
    last, layers = model.forward_intermediates(x, indices=[1, 3])
    torch.testing.assert_close(last, tokens)
    assert [layer.shape for layer in layers] == [(4, 64, 4, 4)] * 2
    model.reset_classifier(0)
    features, losses = model.train().forward_with_losses(x, DOMAINS)
    assert features.shape == (4, 64)
    assert losses["assignments"] > 0
    model.set_grad_checkpointing(True)
    (features.sum() + losses["assignments"]).backward()


def test_state_dict_round_trip_keeps_descriptions():
    model, other = tiny("attribute").eval(), tiny("attribute", seed=5).eval()
    other.describe_domains([(), (), ("outline",)])
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other(pictures(), domains=DOMAINS), model(pictures(), domains=DOMAINS))
    assert not tiny("attribute").domain_bits.requires_grad


def test_routing_can_be_changed_and_capacity_needs_content():
    x = pictures()
    model = tiny("token").eval()
    before = model(x)
    model.set_routing(k=1)
    assert not torch.allclose(model(x), before)
    model.set_routing(capacity_ratio=0.5)
    assert not record(model, x)["blocks.0.mlp"].kept_TK.all()
    with pytest.raises(UserError, match="capacity"):
        tiny("task", capacity_ratio=1.0)(x)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"routing_level": "tokn"}, "token"),
        ({"unknown_domain": "oracle"}, "mean"),
        ({"qk_norm": True}, "qk_norm"),
        ({"routing_loss": "balanced"}, "balance"),
    ],
)
def test_refused_values(kwargs, message):
    with pytest.raises(UserError, match=message):
        timm.create_model("cond_moe_tiny_32", **kwargs)


def test_descriptions_are_checked():
    with pytest.raises(UserError, match="photographic"):
        tiny("attribute").describe_domains([("photografic",), (), ()])
    with pytest.raises(UserError, match="2 domains are described, but the model has 3"):
        tiny("attribute").describe_domains([(), ()])
    with pytest.raises(UserError, match="does not use descriptions"):
        tiny("task").describe_domains([(), (), ()])


@pytest.mark.parametrize("name", list(CATALOG))
def test_descriptions_of_the_data_sets(name):
    facts = CATALOG.load(name)
    assert len(facts.domain_attributes) in (0, len(facts.domains))
    assert all(set(names) <= set(DOMAIN_ATTRIBUTES) for names in facts.domain_attributes)
    described = {"PACS", "VLCS", "OfficeHome", "TerraIncognita", "DomainNet", "SVIRO", "CUBDG", "StyledDigits"}
    assert bool(facts.domain_attributes) or name not in described


def test_the_algorithm_tells_domains_in_training_only(monkeypatch):
    hparams = default_hparams("CondMoE", "StyledDigits") | {"routing_level": "attribute"}
    algorithm = ALGORITHMS.load("CondMoE")((3, 32, 32), 10, 4, hparams)
    network = algorithm.featurizer.network
    assert network.num_domains == 4
    with pytest.raises(UserError, match="needs descriptions"):
        algorithm.describe_domains([])
    algorithm.describe_domains([("drawn",), ("colour",), (), ("drawn",)])
    assert network.domain_alias.tolist() == [0, 1, 2, 0]
    seen = []
    conditions = network.conditions
    monkeypatch.setattr(network, "conditions", lambda x, d=None, b=None: seen.append(d) or conditions(x, d, b))
    algorithm.update([(torch.randn(n, 3, 32, 32), torch.zeros(n, dtype=torch.int64)) for n in (1, 2, 1, 1)])
    algorithm.eval().predict(torch.randn(2, 3, 32, 32))
    assert seen[0].tolist() == [0, 1, 1, 2, 3]
    assert seen[1] is None


def test_other_backbones_do_not_care_for_domains():
    featurizer = build_backbone((3, 32, 32), {"backbone": "sf_moe_tiny_32", "pretrained": False}, num_domains=3)
    assert not featurizer.uses_domains
    features, _ = featurizer.forward_with_losses(torch.randn(2, 3, 32, 32), torch.tensor([0, 1]))
    assert features.shape == (2, 64)
    hparams = {"backbone": "sf_moe_tiny_32", "pretrained": False, "routing_level": "task"}
    with pytest.raises(UserError, match="routing_level"):
        build_backbone((3, 32, 32), hparams)


def test_bf16_autocast():
    for level in ("token", "attribute"):
        model = tiny(level).float()
        x = pictures().float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y, _ = model.eval().forward_with_losses(x, DOMAINS)
        torch.testing.assert_close(y.float(), model(x, domains=DOMAINS), rtol=0.1, atol=0.15)
    assert all(isinstance(layer, ConditionalMoE) for _, layer in moe_layers(model))
