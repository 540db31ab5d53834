"""Make small conditional mixtures of experts in float64, and record their routing."""

import timm
import torch
from torch import nn

import sfmoe_dg.models.backbones  # noqa: F401
from sfmoe_dg.models.moe.conditions import CONTENT_LEVELS, LEVELS
from sfmoe_dg.models.moe.layers import moe_layers

MERGED = [level for level in LEVELS if level not in CONTENT_LEVELS]
STYLES = [("drawn",), ("painted", "colour"), ("drawn",)]
DOMAINS = torch.tensor([0, 1, 1, 2])


def tiny(level="token", seed=0, **kwargs):
    """A float64 model whose experts differ."""
    torch.manual_seed(seed)
    model = timm.create_model("cond_moe_tiny_32", num_classes=5, routing_level=level, **kwargs).double()
    for name, parameter in model.named_parameters():
        if ".experts." in name:
            nn.init.normal_(parameter, std=0.2)
    if level == "attribute":
        model.describe_domains(STYLES)
    return model


def pictures(batch=4):
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def set_merge(model, merge):
    for _, layer in moe_layers(model):
        layer.merge = merge


def record(model, x, **known):
    """The routing of every decision of one forward pass, by name."""
    seen = {}
    hooks = [
        layer.register_forward_hook(lambda module, inputs, output, name=name: seen.update({name: output[1]}))
        for name, layer in moe_layers(model)
    ]
    model.forward_with_losses(x, **known)
    for hook in hooks:
        hook.remove()
    return seen
