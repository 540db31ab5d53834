"""CausIRL with MMD: align the distributions of features between random mixtures of the domains."""

from __future__ import annotations

from torch import Tensor

from sfmoe_dg.algorithms.objectives.caus_irl_coral import CausIRL_CORAL
from sfmoe_dg.algorithms.shared.kernels import gaussian_mmd


class CausIRL_MMD(CausIRL_CORAL):
    """Minimise the mean risk plus ``mmd_gamma`` times the MMD between two random mixtures of the domains.

    As CausIRL_CORAL, with the Gaussian kernels of MMD instead of moments.
    """

    @staticmethod
    def distance(a: Tensor, b: Tensor) -> Tensor:
        """The distance [] between the features of two mixtures, [N, D] and [M, D]."""
        return gaussian_mmd(a, b)
