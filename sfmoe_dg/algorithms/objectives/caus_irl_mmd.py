"""CausIRL_MMD: align mixtures of the domains by the distributions of their features."""

from __future__ import annotations

from torch import Tensor

from sfmoe_dg.algorithms.objectives.caus_irl_coral import CausIRL_CORAL
from sfmoe_dg.algorithms.shared.kernels import gaussian_mmd


class CausIRL_MMD(CausIRL_CORAL):
    """ERM plus ``mmd_gamma`` times the maximum mean discrepancy between two random mixtures of the domains.

    As CausIRL_CORAL, with MMD's Gaussian kernels in the place of the moments.
    """

    @staticmethod
    def distance(a: Tensor, b: Tensor) -> Tensor:
        """Between the features of two mixtures, [N, D] and [M, D]."""
        return gaussian_mmd(a, b)
