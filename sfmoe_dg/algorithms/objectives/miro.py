"""MIRO: stay informative about what the pre-trained network sees."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfmoe_dg.algorithms.base import Minibatches, Values
from sfmoe_dg.algorithms.erm import ERM
from sfmoe_dg.algorithms.objectives.dann import domain_labels
from sfmoe_dg.models.moe.routers import full_precision
from sfmoe_dg.models.stages import recorded_stages
from sfmoe_dg.runs.hparams import Hparam, choice, require_positive


class MIRO(ERM):
    """Cross-entropy plus ``ld`` times a bound on the mutual information with the pre-trained features, stage by stage.

    The bound is the Gaussian log-likelihood of the frozen initial network's features given the trained one's, with a
    learned variance per channel, averaged over entries and summed over stages: stem and four stages of a ResNet, as in
    the paper, every quarter of a transformer's blocks, the features themselves for other networks. Without pre-trained
    weights the oracle is the random initial network, which there is no reason to stay near.

    Source: the paper, equations 5 and 6; ``ld`` and its range, learning rate of the variances: its appendix and code.
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
            "lr_mult": Hparam(10.0),
        }

    @classmethod
    def check_hparams(cls, hparams: dict[str, Any], where: str) -> None:
        super().check_hparams(hparams, where)
        require_positive(hparams, ["lr_mult"], where)

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
    """Half the mean of (feature - target)² / variance + log variance."""
    return ((full_precision(feature) - full_precision(target)).square() / variance + variance.log()).mean() / 2


class ChannelVariance(nn.Module):
    """A learned positive value per channel, 0.1 at first, shaped to fit features [B, C, H, W], [B, S, D] or [B, D]."""

    SMALLEST = 1e-5

    def __init__(self, like: Tensor, initial: float = 0.1) -> None:
        super().__init__()
        channel = 1 if like.dim() == 4 else like.dim() - 1
        shape = [size if i == channel else 1 for i, size in enumerate(like.shape)]
        # The inverse of softplus.
        self.raw = nn.Parameter(torch.full(shape, initial - self.SMALLEST).expm1().log())

    def forward(self) -> Tensor:
        return F.softplus(self.raw) + self.SMALLEST
