"""MLDG: a step on some domains should also help on the others."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import cycle
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfmoe_dg.algorithms.base import Minibatches, Scalar, Values, wide
from sfmoe_dg.algorithms.erm import ERM
from sfmoe_dg.algorithms.objectives.mixup import same_length
from sfmoe_dg.algorithms.optimisation import fuse_on_cuda
from sfmoe_dg.algorithms.shared.gradients import gradients, run_domain, step_along, trainable
from sfmoe_dg.runs.hparams import Hparam, choice, log10_uniform, require_positive


class MLDG(ERM):
    """Risk on meta-train domains plus ``mldg_beta`` times the risk on meta-test domains after a step on the former.

    To first order: the second gradient is taken at the weights after the step (a fresh Adam's) and applied to those
    before it. Source: the paper's algorithm 1, as in DomainBed. Routing losses belong to either risk.

    Differences from upstream: at least one domain stays for meta-train, where upstream changes no weight if there are
    no more than ``n_meta_test`` (with its defaults whenever two of four domains are held out); and the running
    statistics of the images seen are kept, which upstream throws away with the copy that takes the step, so that its
    batch norms predict with those they were born with.
    """

    paper = "Li et al., Learning to Generalize: Meta-Learning for Domain Generalization, 2017"
    min_domains = 2

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        return super().hparam_table(dataset) | {
            "mldg_beta": Hparam(1.0, log10_uniform(-1, 1)),
            "n_meta_test": Hparam(2, choice(1, 2)),
        }

    @classmethod
    def check_hparams(cls, hparams: dict[str, Any], where: str) -> None:
        super().check_hparams(hparams, where)
        require_positive(hparams, ["n_meta_test"], where)

    def update(self, minibatches: Minibatches, unlabeled: Sequence[Tensor] | None = None) -> Values:
        parameters = trainable(self.network)
        directions = [torch.zeros_like(p) for p in parameters]
        logged: dict[str, Scalar] = {"loss": 0.0}
        for i, j in self._pairs():
            gradients_ij, values = self._meta_step(minibatches, i, j)
            for direction, gradient in zip(directions, gradients_ij, strict=True):
                direction += gradient / len(minibatches)
            for name, value in values.items():
                logged[name] = logged.get(name, 0.0) + value / len(minibatches)
        step_along(self, self.optimizer, parameters, directions)
        return logged

    def _pairs(self) -> list[tuple[int, int]]:
        """Every meta-train domain with a meta-test domain, drawn from torch's global generator."""
        order = torch.randperm(self.num_domains).tolist()
        split = max(1, self.num_domains - self.hparams["n_meta_test"])
        return list(zip(order[:split], cycle(order[split:]), strict=False))

    def _meta_step(self, minibatches: Minibatches, i: int, j: int) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Gradients of the risk on domain i here, plus beta times those on domain j one step further."""
        (x_i, y_i), (x_j, y_j) = same_length(minibatches[i], minibatches[j])
        ahead = copy.deepcopy(self.network)
        parameters = trainable(ahead)
        here, values = self._gradients(ahead, x_i, y_i, i)
        for parameter, gradient in zip(parameters, here, strict=True):
            parameter.grad = gradient.clone()
        self._fresh_optimizer(ahead).step()
        there, values_ahead = self._gradients(ahead, x_j, y_j, j)
        for buffer, seen in zip(self.network.buffers(), ahead.buffers(), strict=True):
            buffer.copy_(seen)
        beta = self.hparams["mldg_beta"]
        summed = {name: value + beta * values_ahead[name] for name, value in values.items()}
        return [a + beta * b for a, b in zip(here, there, strict=True)], summed

    def _fresh_optimizer(self, ahead: nn.Sequential) -> torch.optim.Optimizer:
        """An Adam without a past over the copied weights, at the learning rates that the originals have now."""
        copies = {id(p): c for p, c in zip(self.network.parameters(), ahead.parameters(), strict=True)}
        groups = [
            {"params": [copies[id(p)] for p in group["params"]], "lr": group["lr"]}
            for group in self.optimizer.param_groups
        ]
        optimizer = torch.optim.Adam(groups, weight_decay=self.hparams["weight_decay"])
        fuse_on_cuda(optimizer)
        return optimizer

    def _gradients(
        self, network: nn.Sequential, x: Tensor, y: Tensor, domain: int
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        logits, losses = run_domain(network, x, domain)
        risk = F.cross_entropy(logits, y)
        found = gradients(sum(losses.values(), start=risk), trainable(network), self.precision)
        return found, {name: wide(value) for name, value in ({"loss": risk} | losses).items()}
