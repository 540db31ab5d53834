"""Turn a trained conditional mixture of experts into a dense ViT: its experts are merged for a given condition.

Legend: B images, S tokens of one image, D and F widths, E experts, R routes, N conditions.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import get_device_dtype
from torch import Tensor, nn

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.models.architectures.conditional_moe import ConditionalMoEViT
from sfmoe_dg.models.architectures.vision_transformer import SparseVisionTransformer
from sfmoe_dg.models.moe.conditional_layers import ConditionalMoE, merge
from sfmoe_dg.models.moe.conditions import CONTENT_LEVELS, Conditions
from sfmoe_dg.models.moe.layers import LinearExperts


class PerKindLinear(nn.Module):
    """One Linear layer for the first ``num_prefix`` tokens (class token) and another for the rest (patches).

    Args:
        weight_2FD: both weights, each in ``nn.Linear``'s shape.
        bias_2F: both biases, or None.
    """

    def __init__(self, weight_2FD: Tensor, bias_2F: Tensor | None, num_prefix: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight_2FD)
        self.bias = None if bias_2F is None else nn.Parameter(bias_2F)
        self.num_prefix = num_prefix

    def forward(self, x: Tensor) -> Tensor:
        """``[B, S, D]`` → ``[B, S, F]``."""
        prefix, patches = x[:, : self.num_prefix], x[:, self.num_prefix :]
        bias = (None, None) if self.bias is None else self.bias
        return torch.cat([F.linear(prefix, self.weight[0], bias[0]), F.linear(patches, self.weight[1], bias[1])], 1)


@torch.no_grad()
def export_merged(
    model: ConditionalMoEViT, domain: int | None = None, description: Tensor | None = None
) -> SparseVisionTransformer:
    """A dense model with the same outputs as ``model`` in evaluation.

    Args:
        domain: for images of this training domain; None for unknown domains (policy "mean").
        description: for images of the domain that these bits ``[A]`` describe.

    Returns:
        A ViT without experts, in evaluation mode. Where class token and patches have routes of their own, each merged
        layer is a :class:`PerKindLinear` with two copies; otherwise it is a plain timm ViT, its state dict included.

    Raises:
        UserError: if routes depend on content, or on a predicted domain; if there is no such domain, or the routing
            level does not use descriptions.
    """
    _check(model, domain, description)
    dd = get_device_dtype(model)
    dense = SparseVisionTransformer(**{**model.dense_arguments, **dd})
    dense.reset_classifier(model.num_classes)
    tokens = torch.zeros(1, model.num_prefix_tokens + 1, model.embed_dim, **dd)
    domains = None if domain is None else torch.tensor([domain], device=dd["device"])
    conditions, _ = model.conditions(tokens, domains, description)
    assert conditions is not None
    num_prefix = 0 if model.routing_level == "task" else model.num_prefix_tokens
    was_training = model.training
    state = model.state_dict()
    try:
        model.eval()  # no noise on the gates
        for i in model.moe_layers:
            for part in ("attn", "mlp"):
                moe: Any = getattr(model.blocks[i], part)
                for name, layer in _merged_layers(moe, conditions, num_prefix).items():
                    setattr(getattr(dense.blocks[i], part), name, layer)
                    state |= {f"blocks.{i}.{part}.{name}.{key}": value for key, value in layer.state_dict().items()}
    finally:
        model.train(was_training)
    dense.load_state_dict({key: state[key] for key in dense.state_dict()})
    return dense.eval()


def _check(model: ConditionalMoEViT, domain: int | None, description: Tensor | None) -> None:
    if model.routing_level in CONTENT_LEVELS:
        raise UserError(f"routing level {model.routing_level!r} depends on content, so its experts cannot be merged")
    if description is not None and not model.uses_descriptions:
        raise UserError(f"routing level {model.routing_level!r} does not use descriptions of domains; 'attribute' does")
    if domain is not None and model.uses_domains and not 0 <= domain < model.num_domains:
        raise UserError(f"there is no domain {domain}; the model was trained on 0 to {model.num_domains - 1}")
    if model.uses_domains and model.unknown_domain == "predicted" and domain is None and description is None:
        raise UserError("with predicted domains there is one merged model per training domain; say which domain")


def _merged_layers(moe: ConditionalMoE, conditions: Conditions, num_prefix: int) -> dict[str, nn.Module]:
    """Every layer of one decision, merged for the routes of class token and patches; for one if ``num_prefix`` is 0."""
    gates_RE = moe.merged_gates(conditions)
    routes = conditions.index_T[[0, -1]] if num_prefix else conditions.index_T[-1:]
    layers: dict[str, nn.Module] = {}
    for name, experts in moe.experts.named_children():
        assert isinstance(experts, LinearExperts)
        weight_RDF, bias_RF = merge(experts, gates_RE[routes])
        if len(routes) == 2:
            layers[name] = PerKindLinear(weight_RDF.mT.contiguous(), bias_RF, num_prefix)
            continue
        linear = nn.Linear(weight_RDF.shape[1], weight_RDF.shape[2], bias=bias_RF is not None, device="meta")
        linear.weight = nn.Parameter(weight_RDF[0].T.contiguous())
        linear.bias = None if bias_RF is None else nn.Parameter(bias_RF[0])  # type: ignore[assignment]
        layers[name] = linear
    return layers
