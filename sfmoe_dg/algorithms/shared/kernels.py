"""The maximum mean discrepancy (MMD) with a sum of Gaussian kernels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sfmoe_dg.models.moe.routers import full_precision_region

FEATURE_GAMMAS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
"""The inverse widths of the kernels with which DomainBed compares features."""


def gaussian_mmd(a: Tensor, b: Tensor, gammas: Sequence[float] = FEATURE_GAMMAS) -> Tensor:
    """The squared MMD [] of samples a [N, D] and b [M, D] with the kernel k(x, y) = Σ exp(-gamma ‖x - y‖²).

    mean k(a, a) + mean k(b, b) - 2 mean k(a, b), the biased estimate, which also compares an image with itself. Always
    in float32, since it is a small difference of large numbers.

    Examples:
        >>> a, b = torch.zeros(2, 1), torch.ones(3, 1)
        >>> round(gaussian_mmd(a, b, gammas=[1.0]).item(), 4)  # 1 + 1 - 2/e
        1.2642
    """
    with full_precision_region(a):
        a, b = a.float(), b.float()
        return _mean_kernel(a, a, gammas) + _mean_kernel(b, b, gammas) - 2 * _mean_kernel(a, b, gammas)


def _mean_kernel(a: Tensor, b: Tensor, gammas: Sequence[float]) -> Tensor:
    lengths_a, lengths_b = a.square().sum(1, keepdim=True), b.square().sum(1, keepdim=True)
    # Rounding may make a squared distance negative, and a large gamma would amplify that.
    distances = (lengths_b.T - 2 * (a @ b.T) + lengths_a).clamp(min=1e-30)
    return torch.stack([torch.exp(-gamma * distances) for gamma in gammas]).sum(0).mean()
