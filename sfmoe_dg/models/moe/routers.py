"""Routers: from token features to expert logits.

Legend: T tokens, D width, E experts, P width of a projection. Everything is computed in float32 (float64 for float64
inputs), also under autocast.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfmoe_dg.foundation.registry import unknown


class LinearRouter(nn.Module):
    """Bias-free linear map from features to expert logits (V-MoE, WideNet, SF-MoE June 2022).

    The weight starts normal with variance 1/D (Flax's default kernel, which V-MoE's code uses).
    """

    def __init__(self, dim: int, num_experts: int, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_experts, dim, device=device, dtype=dtype))
        self.init_weights()

    def init_weights(self) -> None:
        nn.init.normal_(self.weight, std=self.weight.shape[1] ** -0.5)

    def forward(self, x_TD: Tensor) -> Tensor:
        """``[T, D]`` → logits ``[T, E]``, float32."""
        with full_precision_region(x_TD):
            x_TD = full_precision(x_TD)
            return F.linear(x_TD, self.weight.to(x_TD.dtype))


class CosineRouter(nn.Module):
    """Cosine of projected token and expert embedding over a learnable temperature (GMoE, ICLR 2023, eq. 6).

    Sizes and initial values follow the authors' code: projection to 256 with bias, embeddings N(0, 0.01²), temperature
    0.5, its reciprocal's logarithm clamped at log 100.
    """

    max_log_scale = math.log(100.0)

    def __init__(
        self,
        dim: int,
        num_experts: int,
        proj_dim: int = 256,
        temperature: float = 0.5,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.initial_log_scale = math.log(1.0 / temperature)
        self.proj = nn.Linear(dim, proj_dim, device=device, dtype=dtype)
        self.embeddings = nn.Parameter(torch.empty(num_experts, proj_dim, device=device, dtype=dtype))
        self.log_scale = nn.Parameter(torch.empty(1, device=device, dtype=dtype))
        self.init_weights()

    def init_weights(self) -> None:
        self.proj.reset_parameters()
        nn.init.normal_(self.embeddings, std=0.01)
        nn.init.constant_(self.log_scale, self.initial_log_scale)

    def forward(self, x_TD: Tensor) -> Tensor:
        """``[T, D]`` → logits ``[T, E]``, float32."""
        with full_precision_region(x_TD):
            x_TD = full_precision(x_TD)
            weights = (self.proj.weight, self.proj.bias, self.embeddings, self.log_scale)
            proj_w, proj_b, embeddings_EP, log_scale = (w.to(x_TD.dtype) for w in weights)
            x_TP = F.normalize(F.linear(x_TD, proj_w, proj_b), dim=-1)
            cosine_TE = F.linear(x_TP, F.normalize(embeddings_EP, dim=-1))
            return cosine_TE * log_scale.clamp(max=self.max_log_scale).exp()


ROUTERS: Mapping[str, type[LinearRouter] | type[CosineRouter]] = {"linear": LinearRouter, "cosine": CosineRouter}


def build_router(name: str, dim: int, num_experts: int, device: Any = None, dtype: Any = None) -> nn.Module:
    """The router of that name.

    Raises:
        UserError: if there is none.
    """
    if name not in ROUTERS:
        raise unknown("router", str(name), ROUTERS)
    return ROUTERS[name](dim, num_experts, device=device, dtype=dtype)


def full_precision_region(x: Tensor) -> AbstractContextManager[Any]:
    """No autocast on the device of ``x``, for arithmetic in which small differences of large numbers matter."""
    # ``meta`` has no autocast, and asking for it raises.
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def full_precision(x: Tensor) -> Tensor:
    """float32, or float64 if it is that already."""
    return x if x.dtype == torch.float64 else x.float()
