"""GroupDRO: give the domain with the highest risk the largest weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sfmoe_dg.algorithms.base import PARALLEL_MODES, Forward
from sfmoe_dg.algorithms.erm import ERM
from sfmoe_dg.algorithms.shared.domains import domain_risks
from sfmoe_dg.runs.hparams import Hparam, log10_uniform


class GroupDRO(ERM):
    """Minimise Σ qᵈ · riskᵈ, with weights q that grow by exp(``groupdro_eta`` · riskᵈ) at every update and sum to 1.

    Source: the paper's algorithm 1, as in DomainBed. ``q`` is a buffer with one weight per domain; DomainBed's is empty
    until the first update, so that its trained models cannot be loaded.
    """

    paper = "Sagawa et al., Distributionally Robust Neural Networks for Group Shifts, 2019"
    parallel_modes = PARALLEL_MODES
    one_pass = False
    q: Tensor

    def __init__(
        self, input_shape: tuple[int, ...], num_classes: int, num_domains: int, hparams: dict[str, Any]
    ) -> None:
        super().__init__(input_shape, num_classes, num_domains, hparams)
        self.register_buffer("q", torch.ones(num_domains))

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        return super().hparam_table(dataset) | {"groupdro_eta": Hparam(1e-2, log10_uniform(-3, -1))}

    def objective(self, forward: Forward) -> tuple[Tensor, dict[str, Tensor]]:
        risks = torch.stack(domain_risks(forward))
        grown = self.q * (self.hparams["groupdro_eta"] * risks.detach()).exp()
        self.q.copy_(grown / grown.sum())
        return risks @ self.q.clone(), {}
