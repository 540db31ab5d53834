"""Transfer: minimise the largest gap between the domains' losses over all classifiers near the current one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfmoe_dg.algorithms.base import Minibatches, Values, unread
from sfmoe_dg.algorithms.erm import ERM, make_classifier, mean_losses
from sfmoe_dg.algorithms.shared.optimisation import refuse_layer_decay
from sfmoe_dg.runs.hparams import Hparam, choice, log10_uniform, uniform


class Transfer(ERM):
    """Minimise cross-entropy and the gap between the domains' losses under an adversarial classifier.

    An update takes one step on cross-entropy, then one step on ``t_lambda`` times the gap: the largest minus the
    smallest loss of a domain under the adversarial classifier. The adversarial classifier then starts again from the
    current one and maximises the gap for ``d_steps_per_g`` steps, within a ball of radius ``delta``. Source: the
    paper's algorithm 1, as in DomainBed.

    ``gda`` replaces Adam by plain gradient descent. In DomainBed it gives the network's optimiser the parameters of the
    adversarial classifier, so that the network is never trained; since its random search always draws ``gda``, only its
    defaults train at all. Here ``gda`` descends in the network, as in the paper; the draws are DomainBed's. Unlike
    in DomainBed, the featurizer runs without gradients while the adversary is trained.
    """

    paper = "Zhang et al., Quantifying and Improving Transferability in Domain Generalization, 2021"

    def __init__(
        self, input_shape: tuple[int, ...], num_classes: int, num_domains: int, hparams: dict[str, Any]
    ) -> None:
        super().__init__(input_shape, num_classes, num_domains, hparams)
        # Upstream's checkpoints hold this counter, which only a method that is never called reads.
        self.register_buffer("update_count", torch.tensor([0]))
        nonlinear = hparams["nonlinear_classifier"]
        self.adv_classifier = make_classifier(self.featurizer.n_outputs, num_classes, nonlinear)
        self.adv_classifier.load_state_dict(self.classifier.state_dict())
        if hparams["gda"]:
            self.optimizer = torch.optim.SGD(self.network.parameters(), lr=hparams["lr"])
        self.adv_opt = torch.optim.SGD(self.adv_classifier.parameters(), lr=hparams["lr_d"])

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        return super().hparam_table(dataset) | {
            "t_lambda": Hparam(1.0, log10_uniform(-2, 1)),
            "delta": Hparam(2.0, uniform(0.1, 3.0), above=0),
            "d_steps_per_g": Hparam(10, choice(1, 2, 5), low=1),
            "weight_decay_d": Hparam(0.0, log10_uniform(-6, -2), low=0),
            "gda": Hparam(False, lambda r: True),
            "beta1": Hparam(0.5, choice(0.0, 0.5), low=0, below=1),
            "lr_d": Hparam(1e-3, log10_uniform(-4.5, -2.5), above=0),
        }

    @classmethod
    def check_hparams(cls, hparams: dict[str, Any], where: str) -> None:
        super().check_hparams(hparams, where)
        if hparams["gda"]:
            refuse_layer_decay(hparams, f"{cls.__name__} with 'gda'", where)

    def update(self, minibatches: Minibatches, unlabeled: Sequence[Tensor] | None = None) -> Values:
        forward = self.forward_domains(minibatches)
        loss = F.cross_entropy(forward.all_logits, forward.all_labels)
        self.descend(sum(forward.routing_losses.values(), start=loss), self.optimizer)

        gap, routing_losses = self._gap(minibatches)
        self.descend(sum(routing_losses.values(), start=gap), self.optimizer)
        self.adv_classifier.load_state_dict(self.classifier.state_dict())
        for _ in range(self.hparams["d_steps_per_g"]):
            gap, _ = self._gap(minibatches, train_featurizer=False)
            self.descend(-gap, self.adv_opt)
            project_into_ball(self.adv_classifier, self.classifier, self.hparams["delta"])
        losses = {"loss": loss, "gap": gap} | mean_losses([forward.routing_losses, routing_losses])
        return unread(losses)

    def _gap(self, minibatches: Minibatches, train_featurizer: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
        """``t_lambda`` times the gap between domains under the adversarial classifier, and the routing losses."""
        losses, routing_losses = [], []
        for domain, (x, y) in enumerate(minibatches):
            with torch.set_grad_enabled(train_featurizer):
                features, routing = self.featurizer.forward_with_losses(x, torch.full_like(y, domain))
            losses.append(F.cross_entropy(self.adv_classifier(features), y))
            routing_losses.append(routing)
        stacked = torch.stack(losses)
        return self.hparams["t_lambda"] * (stacked.max() - stacked.min()), mean_losses(routing_losses)


@torch.no_grad()
def project_into_ball(moved: nn.Module, centre: nn.Module, radius: float) -> None:
    """Project the parameters of ``moved`` into the ball of this radius (Euclidean norm) around those of ``centre``."""
    differences = [a - b for a, b in zip(moved.parameters(), centre.parameters(), strict=True)]
    distance = torch.stack([difference.square().sum() for difference in differences]).sum().sqrt()
    shrink = (radius / distance).clamp(max=1.0)
    for parameter, origin, difference in zip(moved.parameters(), centre.parameters(), differences, strict=True):
        parameter.copy_(torch.where(distance > radius, origin + shrink * difference, parameter))
