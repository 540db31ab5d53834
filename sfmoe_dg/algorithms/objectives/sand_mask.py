"""SANDMask: a smooth ANDMask that also depends on the variance of the domains' gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from sfmoe_dg.algorithms.shared.gradient_masks import MaskedGradients
from sfmoe_dg.runs.hparams import Hparam, log10_uniform, uniform

NEARLY_NOTHING = 1e-17
"""The value with which DomainBed replaces a variance or a mask that is NaN."""


class SANDMask(MaskedGradients):
    """Multiply the mean gradient of the domains by max(0, tanh(``k`` · (agreement - ``tau``) / variance)).

    ``agreement`` is |mean over domains of sign(gradient)|, ``variance`` the unbiased variance over domains. Source: the
    paper's equation 3, as in DomainBed.

    With DomainBed's default ``tau`` of 1, kept here for comparable defaults, nothing is learnt: the agreement is never
    above 1, so that the mask is zero everywhere. The values of random search do learn.
    """

    paper = "Shahtalebi et al., SAND-mask: An Enhanced Gradient Masking Strategy, 2021"
    needs = "'tau' below 1 (at upstream's default it learns nothing)"

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        return super().hparam_table(dataset) | {
            "tau": Hparam(1.0, uniform(0.0, 1.0)),
            "k": Hparam(1e1, log10_uniform(-3, 5)),
        }

    def mask(self, by_domain: Tensor) -> Tensor:
        if len(by_domain) > 1:
            # Tensor.var over a short first axis takes several times as long.
            variance = (by_domain - by_domain.mean(0)).square().sum(0) / (len(by_domain) - 1)
        else:
            variance = torch.full_like(by_domain[0], NEARLY_NOTHING)
        agreement = by_domain.sign().mean(0).abs()
        # A variance of zero gives infinity or, where the agreement equals tau, NaN.
        mask = torch.tanh(self.hparams["k"] / variance * (agreement - self.hparams["tau"])).clamp(min=0)
        return mask.nan_to_num(NEARLY_NOTHING)
