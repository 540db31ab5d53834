"""MMD: align the distributions of features between domains."""

from __future__ import annotations

from torch import Tensor

from sfmoe_dg.algorithms.objectives.coral import CORAL
from sfmoe_dg.algorithms.shared.kernels import gaussian_mmd


class MMD(CORAL):
    """Minimise the mean risk plus ``mmd_gamma`` times the mean over pairs of domains of the MMD of their features.

    Follows DomainBed: seven Gaussian kernels of fixed widths, without the paper's adversarial autoencoder.
    """

    paper = "Li et al., Domain Generalization with Adversarial Feature Learning, 2018"
    min_batch_size = 1

    @staticmethod
    def distance(a: Tensor, b: Tensor) -> Tensor:
        """The distance [] between the features of two domains, [N, D] and [M, D]."""
        return gaussian_mmd(a, b)
