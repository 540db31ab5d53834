"""What a conditional mixture of experts may know about a token: the five routing levels of Uni-Perceiver-MoE.

| level | R(x), what the router sees | the route depends on |         source: arXiv 2206.04674, section 3; "task" and
|---|---|---|                                                       "modality" as domain generalization reads them
| token | the token's features | content |
| context | the token's features and the mean of its image's | content |
| modality | an embedding of the token's kind | class token or patch |
| task | an embedding of its image's domain | domain |
| attribute | LayerNorm(W · bits) | the domain's description, class token or patch |

"Class token or patch" stands in for the modality: all images of a data set have the same one.

Legend: B images, S tokens of one image, T = B·S tokens, D width, E experts, A attribute bits, I domains,
N conditions (the different inputs of a router), R routes (of conditions, or of mixtures of them).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfmoe_dg.foundation.registry import unknown
from sfmoe_dg.models.moe.dispatch import Groups
from sfmoe_dg.models.moe.routers import LinearRouter, full_precision, full_precision_region

CONTENT_LEVELS = ("token", "context")
"""Every token has a route of its own."""
DOMAIN_LEVELS = ("task", "attribute")
"""The route depends on the image's domain, which is unknown at test time."""
LEVELS = (*CONTENT_LEVELS, "modality", *DOMAIN_LEVELS)
UNKNOWN_DOMAIN = ("mean", "predicted")
"""Routes for images of unknown domain: the mean of the training domains' gates, or those of the domain that a linear
classifier on the mean stem token predicts."""


@dataclass(frozen=True)
class Conditions:
    """Which tokens share which route, where content does not matter; the same for all layers of a forward pass.

    Attributes:
        inputs_N: what routers are given: int64 ids ``[N]``, or bits ``[N, A]``.
        index_T: the route of every token.
        mixture_RN: shares of the conditions in every route, each row sums to 1; None where route n is condition n.
    """

    inputs_N: Tensor
    index_T: Tensor
    mixture_RN: Tensor | None = None

    @property
    def num_routes(self) -> int:
        return len(self.inputs_N if self.mixture_RN is None else self.mixture_RN)

    @cached_property
    def groups(self) -> Groups:
        """The tokens sorted by route."""
        return Groups(self.index_T[:, None], None, self.num_routes)


def kinds(batch: int, tokens: int, num_prefix: int, device: torch.device) -> Tensor:
    """0 for the class token, 1 for patches, ``[B, S]``."""
    kind_S = (torch.arange(tokens, device=device) >= num_prefix).long()
    return kind_S.expand(batch, tokens)


def modality_conditions(kind_BS: Tensor) -> Conditions:
    """Two routes: of the class token and of patches."""
    return Conditions(torch.arange(2, device=kind_BS.device), kind_BS.flatten())


def task_conditions(num_domains: int, domains_B: Tensor | None, kind_BS: Tensor) -> Conditions:
    """One route per domain; if domains are unknown, one for all tokens, with the mean of the domains' gates."""
    ids_I = torch.arange(num_domains, device=kind_BS.device)
    if domains_B is not None:
        return Conditions(ids_I, domains_B[:, None].expand_as(kind_BS).flatten())
    mixture_1I = torch.full((1, num_domains), 1 / num_domains, device=kind_BS.device)
    return Conditions(ids_I, torch.zeros_like(kind_BS).flatten(), mixture_1I)


def attribute_conditions(
    bits_IA: Tensor, alias_I: Tensor, domains_B: Tensor | None, kind_BS: Tensor, description_A: Tensor | None = None
) -> Conditions:
    """Two routes, of class token and patches, for every described domain, for their mean, or for one description.

    Args:
        bits_IA: the descriptions of the training domains.
        alias_I: the first domain with the same description: equal attributes share a condition, noise included.
        description_A: of the domain that all images are from, in the place of ``domains_B``.
    """
    if description_A is not None:
        return Conditions(_with_kind(description_A[None].to(bits_IA)), kind_BS.flatten())
    inputs_N = _with_kind(bits_IA)
    if domains_B is not None:
        return Conditions(inputs_N, (2 * alias_I[domains_B][:, None] + kind_BS).flatten())
    num_domains = len(bits_IA)
    share_N = torch.zeros(num_domains, device=bits_IA.device).index_add_(
        0, alias_I, torch.full((num_domains,), 1 / num_domains, device=bits_IA.device)
    )
    mixture_2N = torch.einsum("n,kl->knl", share_N, torch.eye(2, device=bits_IA.device)).flatten(1)
    return Conditions(inputs_N, kind_BS.flatten(), mixture_2N)


def _with_kind(bits_IA: Tensor) -> Tensor:
    """``[I, A]`` → ``[2·I, A + 1]``: each description for the class token (last bit 1), then for patches (0)."""
    kind_21 = torch.tensor([[1.0], [0.0]], device=bits_IA.device, dtype=bits_IA.dtype)
    bits_I2A = bits_IA[:, None].expand(-1, 2, -1)
    return torch.cat([bits_I2A, kind_21.expand(len(bits_IA), 2, 1)], -1).flatten(0, 1)


class TokenRouter(LinearRouter):
    """Linear map of a token's features."""

    def forward(self, x_BSD: Tensor) -> Tensor:
        """``[B, S, D]`` → logits ``[T, E]``, float32."""
        return super().forward(x_BSD.flatten(0, 1))


class ContextRouter(nn.Module):
    """Linear map of a token's features beside the mean of its image's tokens."""

    def __init__(self, dim: int, num_experts: int, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.gate = LinearRouter(2 * dim, num_experts, device=device, dtype=dtype)

    def forward(self, x_BSD: Tensor) -> Tensor:
        """``[B, S, D]`` → logits ``[T, E]``, float32."""
        pooled_BSD = x_BSD.mean(1, keepdim=True).expand_as(x_BSD)
        return self.gate(torch.cat([x_BSD, pooled_BSD], -1).flatten(0, 1))


class EmbeddingRouter(nn.Module):
    """Linear map of a learned embedding of an id: the kind of a token, or the domain of an image."""

    def __init__(self, num_ids: int, dim: int, num_experts: int, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(num_ids, dim, device=device, dtype=dtype))
        self.gate = LinearRouter(dim, num_experts, device=device, dtype=dtype)
        self.init_weights()

    def init_weights(self) -> None:
        nn.init.normal_(self.embedding)

    def forward(self, ids_N: Tensor) -> Tensor:
        """``[N]`` → logits ``[N, E]``, float32."""
        return self.gate(self.embedding[ids_N])


class AttributeRouter(nn.Module):
    """Linear map of LayerNorm(W · bits)."""

    def __init__(self, num_bits: int, dim: int, num_experts: int, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim, num_bits, device=device, dtype=dtype))
        self.norm = nn.LayerNorm(dim, device=device, dtype=dtype)
        self.gate = LinearRouter(dim, num_experts, device=device, dtype=dtype)
        self.init_weights()

    def init_weights(self) -> None:
        nn.init.normal_(self.weight, std=self.weight.shape[1] ** -0.5)
        self.norm.reset_parameters()

    def forward(self, bits_NA: Tensor) -> Tensor:
        """``[N, A]`` → logits ``[N, E]``, float32."""
        with full_precision_region(bits_NA):
            weight, scale, shift = (full_precision(w) for w in (self.weight, self.norm.weight, self.norm.bias))
            features_ND = F.linear(bits_NA.to(weight.dtype), weight)
            return self.gate(F.layer_norm(features_ND, scale.shape, scale, shift, self.norm.eps))


def router_maker(level: str, num_domains: int, num_bits: int) -> Callable[..., nn.Module]:
    """A function ``(dim, num_experts, device=, dtype=)`` that makes a router of the level.

    Raises:
        UserError: on an unknown level.
    """
    makers: dict[str, Callable[..., nn.Module]] = {
        "token": TokenRouter,
        "context": ContextRouter,
        "modality": partial(EmbeddingRouter, 2),
        "task": partial(EmbeddingRouter, num_domains),
        "attribute": partial(AttributeRouter, num_bits + 1),
    }
    if level not in makers:
        raise unknown("routing level", str(level), LEVELS)
    return makers[level]
