"""SD, spectral decoupling: penalise large logits."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from sfmoe_dg.algorithms.base import PARALLEL_MODES, Forward
from sfmoe_dg.algorithms.erm import ERM
from sfmoe_dg.runs.hparams import Hparam, log10_uniform


class SD(ERM):
    """Minimise cross-entropy plus ``sd_reg`` times the mean squared logit.

    Source: the paper's equation 25, without its factor of one half, as in DomainBed.
    """

    paper = "Pezeshki et al., Gradient Starvation: A Learning Proclivity in Neural Networks, 2020"
    parallel_modes = PARALLEL_MODES

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        return super().hparam_table(dataset) | {"sd_reg": Hparam(0.1, log10_uniform(-5, -1))}

    def objective(self, forward: Forward) -> tuple[Tensor, dict[str, Tensor]]:
        logits = forward.all_logits
        risk = F.cross_entropy(logits, forward.all_labels)
        penalty = logits.float().square().mean()
        return risk + self.hparams["sd_reg"] * penalty, {"nll": risk, "penalty": penalty}
