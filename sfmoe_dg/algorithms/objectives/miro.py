"""MIRO: keep the mutual information with the features of the pre-trained network."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfmoe_dg.algorithms.base import Minibatches, Values
from sfmoe_dg.algorithms.erm import ERM
from sfmoe_dg.algorithms.shared.domains import domain_labels
from sfmoe_dg.models.moe.routers import full_precision
from sfmoe_dg.models.stages import recorded_stages
from sfmoe_dg.runs.hparams import Hparam, choice


class MIRO(ERM):
    """Minimise cross-entropy minus ``ld`` times a lower bound on the mutual information with the pre-trained features.

    The bound is the Gaussian log-likelihood of the features of the frozen initial network, given those of the trained
    network, with a learned variance per channel. It is averaged over entries and summed over stages: the stem and four
    stages of a ResNet, as in the paper; every quarter of a transformer's blocks; for other networks the features alone.
    Without pre-trained weights the penalty keeps the network near its random initial weights, which is of no use.

    Source: the paper, equations 5 and 6. ``ld``, its range and the learning rate of the variances come from the paper's
    appendix and code.
    """

    paper = "Cha et al., Domain Generalization by Mutual-Information Regularization with Pre-trained Models, 2022"
    needs = "a pre-trained backbone (its features are what is kept)"
    cannot_compile = "hooks into the backbone at every update"

    def __init__(
        self, input_shape: tuple[int, ...], num_classes: int, num_domains: int, hparams: dict[str, Any]
    ) -> None:
        super().__init__(input_shape, num_classes, num_domains, hparams)
        self.oracle = copy.deepcopy(self.featurizer).requires_grad_(False).eval()
        with torch.no_grad():
            stages = self._oracle_stages(torch.zeros(1, *input_shape), None)
        self.variances = nn.ModuleList(ChannelVariance(feature) for feature in stages)
        rate = hparams["lr"] * hparams["lr_mult"]
        self.optimizer.add_param_group({"params": list(self.variances.parameters()), "lr": rate})

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        return super().hparam_table(dataset) | {
            "ld": Hparam(0.01 if dataset in ("PACS", "VLCS") else 0.1, choice(1.0, 0.1, 0.01, 0.001)),
            "lr_mult": Hparam(10.0, above=0),
        }

    def update(self, minibatches: Minibatches, unlabeled: Sequence[Tensor] | None = None) -> Values:
        with recorded_stages(self.featurizer.network) as recorded:
            forward = self.forward_domains(minibatches)
        stages = recorded or [torch.cat(forward.features)]
        with torch.no_grad():
            wanted = self._oracle_stages(torch.cat([x for x, _ in minibatches]), domain_labels(minibatches))
        pairs = zip(stages, wanted, self.variances, strict=True)
        reg_loss = torch.stack([information_loss(stage, target, variance()) for stage, target, variance in pairs]).sum()
        loss = F.cross_entropy(forward.all_logits, forward.all_labels) + self.hparams["ld"] * reg_loss
        return self.step(self.optimizer, loss, forward.routing_losses, reg_loss=reg_loss)

    def _oracle_stages(self, x: Tensor, domains: Tensor | None) -> list[Tensor]:
        with recorded_stages(self.oracle.network) as recorded:
            features, _ = self.oracle.eval().forward_with_losses(x, domains)
        return recorded or [features]


def information_loss(feature: Tensor, target: Tensor, variance: Tensor) -> Tensor:
    """½ · mean((feature - target)² / variance + log variance), the negative Gaussian log-likelihood of ``target``."""
    return ((full_precision(feature) - full_precision(target)).square() / variance + variance.log()).mean() / 2


class ChannelVariance(nn.Module):
    """A learned positive variance per channel, broadcastable to features [B, C, H, W], [B, S, D] or [B, D]."""

    SMALLEST = 1e-5

    def __init__(self, like: Tensor, initial: float = 0.1) -> None:
        super().__init__()
        channel = 1 if like.dim() == 4 else like.dim() - 1
        shape = [size if i == channel else 1 for i, size in enumerate(like.shape)]
        # The inverse of softplus.
        self.raw = nn.Parameter(torch.full(shape, initial - self.SMALLEST).expm1().log())

    def forward(self) -> Tensor:
        return F.softplus(self.raw) + self.SMALLEST
