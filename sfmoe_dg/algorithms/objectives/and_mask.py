"""ANDMask: update a weight only if the domains agree on the sign of its gradient."""

from __future__ import annotations

from torch import Tensor

from sfmoe_dg.algorithms.shared.gradient_masks import MaskedGradients
from sfmoe_dg.runs.hparams import Hparam, uniform


class ANDMask(MaskedGradients):
    """Keep an entry of the mean gradient where |mean over domains of sign(gradient)| ≥ ``tau``, and set others to zero.

    With the default ``tau`` of 1 all domains must agree. Source: the paper's algorithm 1. As in DomainBed, Adam takes
    the step with the masked gradients.
    """

    paper = "Parascandolo et al., Learning Explanations that are Hard to Vary, 2020"

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        return super().hparam_table(dataset) | {"tau": Hparam(1, uniform(0.5, 1.0), types=(float,))}

    def mask(self, by_domain: Tensor) -> Tensor:
        return (by_domain.sign().mean(0).abs() >= self.hparams["tau"]).to(by_domain.dtype)
