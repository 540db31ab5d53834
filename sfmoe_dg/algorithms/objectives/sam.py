"""Sharpness-aware minimisation (SAM)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sfmoe_dg.algorithms.base import Minibatches, Values, unread
from sfmoe_dg.algorithms.erm import ERM
from sfmoe_dg.runs.hparams import Hparam, choice


class SAM(ERM):
    """Minimise the largest loss within the distance ``sam_rho`` of the current weights.

    The weights with the largest loss are approximated by one step of length ``sam_rho`` along the gradient. The
    optimiser then applies the gradient at these weights to the current ones. The loss is cross-entropy plus routing
    losses. Only the first of the two passes updates the running statistics of batch norms.

    Source: the paper, algorithm 1; 0.05 is its default of rho, and the range is that of its experiments.
    """

    paper = "Foret et al., Sharpness-Aware Minimization for Efficiently Improving Generalization, 2021"

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        return super().hparam_table(dataset) | {"sam_rho": Hparam(0.05, choice(0.01, 0.02, 0.05, 0.1))}

    def update(self, minibatches: Minibatches, unlabeled: Sequence[Tensor] | None = None) -> Values:
        forward = self.forward_domains(minibatches)
        loss, logged = self.objective(forward)
        self.optimizer.zero_grad()
        self.precision.scaler.scale(sum(forward.routing_losses.values(), start=loss)).backward()
        moves = climb(list(self.network.parameters()), self.hparams["sam_rho"])

        running = [m for m in self.network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
        momenta = [m.momentum for m in running]
        for module in running:
            module.momentum = 0.0
        worst = self.forward_domains(minibatches)
        worst_loss, _ = self.objective(worst)
        for module, momentum in zip(running, momenta, strict=True):
            module.momentum = momentum

        self.optimizer.zero_grad()
        self.precision.scaler.scale(sum(worst.routing_losses.values(), start=worst_loss)).backward()
        with torch.no_grad():
            for parameter, move in moves:
                parameter.sub_(move)
        self.take_steps(self.optimizer)
        logged = {"loss": loss, "loss_worst": worst_loss} | logged | forward.routing_losses
        return unread(logged)


@torch.no_grad()
def climb(parameters: Sequence[nn.Parameter], rho: float) -> list[tuple[nn.Parameter, Tensor]]:
    """Move parameters by a step of length ``rho`` along their joint gradient.

    The gradient may be scaled, which does not change its direction. If it is zero or not finite, nothing moves;
    float16's scaler then skips the optimiser's step too.

    Returns:
        (parameter, change) of every parameter with a gradient, so that the step can be undone.
    """
    with_gradient = [(p, p.grad) for p in parameters if p.grad is not None]
    norm = torch.stack([gradient.float().norm() for _, gradient in with_gradient]).norm()
    usable = torch.isfinite(norm) & (norm > 0)
    moves = [(p, torch.where(usable, gradient * (rho / norm), 0.0)) for p, gradient in with_gradient]
    for parameter, move in moves:
        parameter.add_(move)
    return moves
