"""MLDG: choose steps on some domains that also reduce the risk on the others."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import cycle

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfmoe_dg.algorithms.base import Minibatches, Scalar, Values, wide
from sfmoe_dg.algorithms.erm import ERM
from sfmoe_dg.algorithms.shared.domains import run_domain, same_length
from sfmoe_dg.algorithms.shared.gradients import gradients, step_along, trainable
from sfmoe_dg.algorithms.shared.optimisation import fuse_on_cuda
from sfmoe_dg.runs.hparams import Hparam, choice, log10_uniform


class MLDG(ERM):
    """Minimise the risk on meta-train domains plus ``mldg_beta`` times the risk on meta-test domains after a step.

    The step is that of a new Adam on a meta-train domain. This is the first-order version: the gradient of the
    meta-test risk is computed at the weights after the step and applied to the weights before it. Routing losses are
    part of both risks. Source: the paper's algorithm 1, as in DomainBed.

    Differences from DomainBed: at least one domain is left for meta-train, where DomainBed updates nothing if there
    are at most ``n_meta_test`` training domains (which happens with its defaults when two of four domains are held
    out). The running statistics of batch norms are kept; in DomainBed they are lost with the copy of the network that
    takes the step, so that predictions use the initial statistics.
    """

    paper = "Li et al., Learning to Generalize: Meta-Learning for Domain Generalization, 2017"
    min_domains = 2

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        return super().hparam_table(dataset) | {
            "mldg_beta": Hparam(1.0, log10_uniform(-1, 1)),
            "n_meta_test": Hparam(2, choice(1, 2), low=1),
        }

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
        """Pairs of each meta-train domain and a meta-test domain, drawn from torch's global generator."""
        order = torch.randperm(self.num_domains).tolist()
        split = max(1, self.num_domains - self.hparams["n_meta_test"])
        return list(zip(order[:split], cycle(order[split:]), strict=False))

    def _meta_step(self, minibatches: Minibatches, i: int, j: int) -> tuple[list[Tensor], dict[str, Tensor]]:
        """The gradients on domain i, plus beta times those on domain j after one step; and the values to log."""
        (x_i, y_i), (x_j, y_j) = same_length(minibatches[i], minibatches[j])
        ahead = copy.deepcopy(self.network)
        parameters = trainable(ahead)
        here, values = self._gradients(ahead, x_i, y_i, i)
        for parameter, gradient in zip(parameters, here, strict=True):
            parameter.grad = gradient.clone()
        self._fresh_optimizer(ahead).step()
        there, values_ahead = self._gradients(ahead, x_j, y_j, j)
        for buffer, new in zip(self.network.buffers(), ahead.buffers(), strict=True):
            buffer.copy_(new)
        beta = self.hparams["mldg_beta"]
        summed = {name: value + beta * values_ahead[name] for name, value in values.items()}
        return [a + beta * b for a, b in zip(here, there, strict=True)], summed

    def _fresh_optimizer(self, ahead: nn.Sequential) -> torch.optim.Optimizer:
        """A new Adam for the copied weights, with the current learning rates of the originals."""
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
        by_parameter = gradients(sum(losses.values(), start=risk), trainable(network), self.precision)
        return by_parameter, {name: wide(value) for name, value in ({"loss": risk} | losses).items()}
