"""The maximum mean discrepancy under a sum of Gaussian kernels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sfmoe_dg.models.moe.routers import full_precision_region

FEATURE_GAMMAS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
"""The inverse widths with which DomainBed compares features."""


def gaussian_mmd(a: Tensor, b: Tensor, gammas: Sequence[float] = FEATURE_GAMMAS) -> Tensor:
    """Squared discrepancy of samples a [N, D] and b [M, D] under the kernel Σ exp(-gamma · squared distance).

    The biased estimate: an image is also compared with itself. In float32 whatever the precision of training, since
    it takes small differences of large numbers.
    """
    with full_precision_region(a):
        a, b = a.float(), b.float()
        return _mean_kernel(a, a, gammas) + _mean_kernel(b, b, gammas) - 2 * _mean_kernel(a, b, gammas)


def _mean_kernel(a: Tensor, b: Tensor, gammas: Sequence[float]) -> Tensor:
    lengths_a, lengths_b = a.square().sum(1, keepdim=True), b.square().sum(1, keepdim=True)
    # Rounding may leave a squared distance below zero, which the widest kernel would blow up.
    distances = (lengths_b.T - 2 * (a @ b.T) + lengths_a).clamp(min=1e-30)
    return torch.stack([torch.exp(-gamma * distances) for gamma in gammas]).sum(0).mean()
