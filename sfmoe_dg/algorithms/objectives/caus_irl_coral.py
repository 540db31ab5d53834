"""CausIRL with CORAL: align the moments of features between random mixtures of the domains."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sfmoe_dg.algorithms.base import PARALLEL_MODES, Forward
from sfmoe_dg.algorithms.objectives.coral import CORAL
from sfmoe_dg.algorithms.shared.domains import mean_risk


class CausIRL_CORAL(CORAL):
    """Minimise the mean risk plus ``mmd_gamma`` times CORAL's distance between two random mixtures of the domains.

    Every minibatch is cut at a random position; the first parts form one mixture, the second parts the other. The
    penalty is zero if a mixture has fewer than two images. Follows DomainBed, except that a distance that is NaN
    remains NaN and shows in the records, where DomainBed replaces it by zero.
    """

    paper = "Chevalley et al., Invariant Causal Mechanisms through Distribution Matching, 2022"
    parallel_modes = PARALLEL_MODES
    min_batch_size = 1

    def objective(self, forward: Forward) -> tuple[Tensor, dict[str, Tensor]]:
        risk = mean_risk(forward)
        cuts = [int(np.random.randint(0, len(features))) for features in forward.features]
        first = torch.cat([features[:cut] for features, cut in zip(forward.features, cuts, strict=True)])
        second = torch.cat([features[cut:] for features, cut in zip(forward.features, cuts, strict=True)])
        enough = min(len(first), len(second)) > 1
        penalty = self.distance(first, second) if enough else risk.new_zeros(())
        return risk + self.hparams["mmd_gamma"] * penalty, {"nll": risk, "penalty": penalty}
