"""Aligning experts changes no output and undoes a permutation."""

import pytest
import torch
from tiny_twins import TINY_MOES

from sfmoe_dg.algorithms.registry import default_hparams
from sfmoe_dg.models.backbones import build_backbone
from sfmoe_dg.models.moe.align_experts import align_experts
from sfmoe_dg.models.moe.layers import moe_layers


def make(backbone, seed=0):
    torch.manual_seed(seed)
    return build_backbone((3, 32, 32), default_hparams("ERM", "StyledDigits") | {"backbone": backbone}, num_domains=3)


def specialise(network, seed):
    """Make the experts differ, as training does; they start identical."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for _, layer in moe_layers(network):
            for parameter in layer.experts.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))


@pytest.mark.parametrize("backbone", TINY_MOES)
def test_a_permutation_is_undone(backbone):
    reference, network = make(backbone), make(backbone)
    specialise(reference, 1)
    network.load_state_dict(reference.state_dict())
    x = torch.rand(2, 3, 32, 32)
    expected = network.eval()(x)
    _, layer = moe_layers(network)[0]
    order = torch.randperm(layer.options.num_experts).roll(1)
    rows = [p for p in layer.router.parameters() if p.dim() == 2 and len(p) == len(order)]
    with torch.no_grad():
        for parameter in (*layer.experts.parameters(), *rows):
            parameter.copy_(parameter[order].clone())
    assert torch.allclose(network(x), expected, atol=1e-5)
    moved = align_experts(network, reference)
    assert moved == int((order != torch.arange(len(order))).sum())
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, dict(reference.named_parameters())[name]), name


def test_matching_changes_no_output():
    network, reference = make("sf_moe_tiny_32", 1), make("sf_moe_tiny_32", 2)
    specialise(network, 3)
    specialise(reference, 4)
    x = torch.rand(2, 3, 32, 32)
    before = network.eval()(x)
    assert align_experts(network, reference) > 0
    assert torch.allclose(network(x), before, atol=1e-5)


def test_a_dense_network_has_nothing_to_match():
    assert align_experts(make("vit_tiny_32"), make("vit_tiny_32", 1)) == 0
