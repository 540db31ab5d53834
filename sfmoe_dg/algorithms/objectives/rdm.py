"""RDM: match the distribution of risks in the worst domain with that in all domains."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sfmoe_dg.algorithms.base import PARALLEL_MODES, Forward
from sfmoe_dg.algorithms.common_hparams import SMALL_IMAGES
from sfmoe_dg.algorithms.shared.annealing import AnnealedERM
from sfmoe_dg.algorithms.shared.kernels import gaussian_mmd
from sfmoe_dg.runs.hparams import Hparam, choice, int_uniform, uniform

RISK_GAMMAS = (0.0001, 0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
"""The inverse widths of the kernels with which DomainBed compares risks."""


class RDM(AnnealedERM):
    """Minimise the mean risk plus ``rdm_lambda`` times the MMD between the worst domain's risks and all domains' risks.

    The risks are those of single images. ``variance_weight`` times the sum of two variances is added: that of the risks
    of all images, and that of the worst domain's. Both penalties start after ``rdm_penalty_anneal_iters`` updates.
    Follows DomainBed, which needs CUDA and minibatches of equal size.
    """

    paper = "Nguyen et al., Domain Generalisation via Risk Distribution Matching, 2023"
    waits_for_device = "reads which domain is the worst"
    parallel_modes = PARALLEL_MODES
    min_batch_size = 2  # for the variance of a domain's risks
    anneal_hparams = ("rdm_penalty_anneal_iters",)
    restart_lr_hparam = "rdm_lr"

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        table = super().hparam_table(dataset)
        table |= {"rdm_lambda": _weight(dataset), "rdm_lr": Hparam(1.5e-5, uniform(8e-6, 2e-5), above=0)}
        if dataset == "DomainNet":
            table["rdm_penalty_anneal_iters"] = Hparam(2400, int_uniform(1500, 3000))
        else:
            table["rdm_penalty_anneal_iters"] = Hparam(1500, int_uniform(800, 2700))
        if dataset in ("TerraIncognita", "OfficeHome", "DomainNet"):
            table["variance_weight"] = Hparam(0.0, choice(0.0))
        else:
            table["variance_weight"] = Hparam(0.004, uniform(0.001, 0.007))
        if dataset in ("DomainNet", "TerraIncognita"):
            table["batch_size"] = Hparam(40, int_uniform(30, 60), low=1)
        elif dataset not in SMALL_IMAGES:
            table["batch_size"] = Hparam(88, int_uniform(70, 100), low=1)
        return table

    def objective(self, forward: Forward) -> tuple[Tensor, dict[str, Tensor]]:
        risks = [F.cross_entropy(z, y, reduction="none") for z, y in zip(forward.logits, forward.labels, strict=True)]
        means = torch.stack([r.mean() for r in risks])
        worst, every = risks[int(means.argmax())], torch.cat(risks)
        matching = gaussian_mmd(worst.unsqueeze(1), every.unsqueeze(1), RISK_GAMMAS)
        variance = every.var() + worst.var()
        loss = means.mean()
        if self.annealed("rdm_penalty_anneal_iters"):
            loss = loss + self.hparams["rdm_lambda"] * matching + self.hparams["variance_weight"] * variance
        return loss, {"nll": means.mean(), "matching_penalty": matching, "variance_penalty": variance}


def _weight(dataset: str) -> Hparam:
    if dataset == "DomainNet":
        return Hparam(0.5, uniform(0.1, 1.0))
    if dataset in ("PACS", "TerraIncognita"):
        return Hparam(5.0, uniform(1.0, 10.0))
    return Hparam(5.0, uniform(0.1, 10.0))
