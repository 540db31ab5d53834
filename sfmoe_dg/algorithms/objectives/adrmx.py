"""ADRMX: subtract domain features from label features, and classify remixed features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sfmoe_dg.algorithms.base import Algorithm, Minibatches, Values, unread
from sfmoe_dg.algorithms.common_hparams import LEARNS_FROM_SCRATCH
from sfmoe_dg.algorithms.erm import make_classifier
from sfmoe_dg.algorithms.shared.adversaries import make_discriminator, takes_discriminator_turn
from sfmoe_dg.algorithms.shared.domains import domain_labels
from sfmoe_dg.algorithms.shared.optimisation import refuse_layer_decay
from sfmoe_dg.models.backbones import build_backbone
from sfmoe_dg.models.moe.routers import full_precision, full_precision_region
from sfmoe_dg.runs.hparams import Hparam, choice


class ADRMX(Algorithm):
    """Train a label featurizer and a domain featurizer so that their difference does not show the domain.

    ``d_steps_per_g_step`` updates of a domain discriminator on the difference alternate with one update of everything
    else, which minimises the sum of

    * the cross-entropy of the label, from label features and from differences;
    * ``dclf_lambda`` times the cross-entropy of the domain, from domain features;
    * ``rmxd_lambda`` times the cross-entropy of remixed features: the difference of one image plus the domain features
      of another;
    * ``cnt_lambda`` times :func:`contrastive_loss` of label features and of differences;
    * minus ``disc_lambda`` times the discriminator's loss.

    Predictions use the label features alone.

    Follows DomainBed, without weight decay as there. DomainBed numbers the images within each class, but uses the
    numbers as positions in the batch, so that both images of a remix come from anywhere among the first images of the
    batch. This is kept, so that results can be compared with published ones; ``remix_within_class`` takes two images
    of one class, as in the paper. Unlike in DomainBed, the discriminator's update computes no gradients of the
    featurizers.
    """

    paper = "Demirel et al., ADRMX: Additive Disentanglement of Domain Features with Remix Loss, 2023"
    waits_for_device = "draws images of a class on the CPU"
    update_count: Tensor

    def __init__(
        self, input_shape: tuple[int, ...], num_classes: int, num_domains: int, hparams: dict[str, Any]
    ) -> None:
        super().__init__(input_shape, num_classes, num_domains, hparams)
        self.register_buffer("update_count", torch.tensor([0]))
        self.featurizer = build_backbone(self.input_shape, hparams, num_domains=num_domains)
        self.featurizer_domain = build_backbone(self.input_shape, hparams, num_domains=num_domains)
        width = self.featurizer.n_outputs
        self.discriminator = make_discriminator(width, num_domains, hparams)
        self.classifier = make_classifier(width, num_classes, nonlinear=True)
        self.classifier_difference = make_classifier(width, num_classes, nonlinear=True)
        self.classifier_domain = make_classifier(width, num_domains, nonlinear=True)
        played = {id(p) for p in self.discriminator.parameters()}
        self.disc_opt = self._adam(list(self.discriminator.parameters()))
        self.opt = self._adam([p for p in self.parameters() if id(p) not in played])

    def _adam(self, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=self.hparams["lr"], betas=(self.hparams["beta1"], 0.9))

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        table = super().hparam_table(dataset)
        if dataset in LEARNS_FROM_SCRATCH:
            lr = Hparam(3e-3, choice(5e-4, 1e-3, 2e-3, 3e-3), above=0)
        else:
            lr = Hparam(3e-5, choice(2e-5, 3e-5, 4e-5, 5e-5), above=0)
        return table | {
            "cnt_lambda": Hparam(1.0),
            "dclf_lambda": Hparam(1.0),
            "disc_lambda": Hparam(0.75),
            "rmxd_lambda": Hparam(1.0),
            "d_steps_per_g_step": Hparam(2, low=1),
            "beta1": Hparam(0.5, low=0, below=1),
            "mlp_width": Hparam(256, low=1),
            "mlp_depth": Hparam(9, choice(8, 9, 10), low=1),
            "mlp_dropout": Hparam(0.0, choice(0), low=0, high=1),
            "lr": lr,
            "remix_within_class": Hparam(False),
        }

    @classmethod
    def check_hparams(cls, hparams: dict[str, Any], where: str) -> None:
        super().check_hparams(hparams, where)
        refuse_layer_decay(hparams, cls.__name__, where)

    def update(self, minibatches: Minibatches, unlabeled: Sequence[Tensor] | None = None) -> Values:
        self.update_count += 1
        if takes_discriminator_turn(self.update_count, self.hparams["d_steps_per_g_step"]):
            with torch.no_grad():
                label, domain, _ = self._features(minibatches)
            loss = F.cross_entropy(self.discriminator(label - domain), domain_labels(minibatches))
            self.descend(loss, self.disc_opt)
            return unread({"loss_disc": loss})
        return self._main_turn(minibatches)

    def _features(self, minibatches: Minibatches) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        x, domains = torch.cat([x for x, _ in minibatches]), domain_labels(minibatches)
        label, label_losses = self.featurizer.forward_with_losses(x, domains)
        domain, domain_losses = self.featurizer_domain.forward_with_losses(x, domains)
        # The sum, since the two backbones have routers of their own.
        return label, domain, {name: label_losses[name] + domain_losses[name] for name in label_losses}

    def _main_turn(self, minibatches: Minibatches) -> Values:
        labels, domains = torch.cat([y for _, y in minibatches]), domain_labels(minibatches)
        label, domain, routing_losses = self._features(minibatches)
        difference = label - domain
        losses = {
            "loss_disc": F.cross_entropy(self.discriminator(difference), domains),
            "loss_dmn": F.cross_entropy(self.classifier_domain(domain), domains),
            "loss_clf_int": F.cross_entropy(self.classifier(label), labels),
            "loss_cnt_int": contrastive_loss(label, labels, domains),
            "loss_clf_fin": F.cross_entropy(self.classifier_difference(difference), labels),
            "loss_cnt_final": contrastive_loss(difference, labels, domains),
            "loss_remixed": self._remix_loss(difference, domain, labels),
        }
        weights = self.hparams
        total = (
            losses["loss_clf_int"]
            + losses["loss_clf_fin"]
            + weights["dclf_lambda"] * losses["loss_dmn"]
            + weights["rmxd_lambda"] * losses["loss_remixed"]
            + weights["cnt_lambda"] * (losses["loss_cnt_int"] + losses["loss_cnt_final"])
            - weights["disc_lambda"] * losses["loss_disc"]
        )
        self.descend(sum(routing_losses.values(), start=total), self.opt)
        return unread({"loss_total": total} | losses | routing_losses)

    def _remix_loss(self, difference: Tensor, domain: Tensor, labels: Tensor) -> Tensor:
        """The cross-entropy of one remix per class with at least two images, divided by the number of classes."""
        first, second = [], []
        for name in range(self.num_classes):
            instances = torch.where(labels == name)[0]
            drawn = torch.randperm(len(instances))[:2]
            if len(drawn) < 2:
                continue
            a, b = instances[drawn.to(labels.device)].tolist() if self.hparams["remix_within_class"] else drawn.tolist()
            first.append(a)
            second.append(b)
        if not first:
            return difference.new_zeros(())
        logits = self.classifier(difference[first] + domain[second])
        return F.cross_entropy(logits, labels[first], reduction="sum") / self.num_classes

    def predict(self, x: Tensor) -> Tensor:
        return self.classifier(self.featurizer(x))


def contrastive_loss(features: Tensor, labels: Tensor, domains: Tensor, temperature: float = 0.07) -> Tensor:
    """The supervised contrastive loss [] of features [B, D], labels [B] and domains [B].

    Pairs within a domain have the weight :data:`WITHIN`, pairs across domains ``1 - WITHIN``. The sum over the images
    that have a partner of their class is divided by the number of these images plus one, as in DomainBed.
    """
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    partners = labels[:, None].eq(labels) & ~itself
    with full_precision_region(features):
        unit = F.normalize(full_precision(features), dim=1)
        weights = torch.where(domains[:, None].eq(domains), WITHIN, 1 - WITHIN)
        terms = weights * torch.exp(unit @ unit.T / temperature)
        shares = terms / (terms.masked_fill(itself, 0.0).sum(1, keepdim=True) + 1e-5)
        logs = torch.where(partners, torch.log(shares + 1e-5), 0.0)
    count = partners.sum(1)
    paired = count > 0
    return -(logs.sum(1)[paired] / count[paired]).sum() / (paired.sum() + 1)


WITHIN = 0.5
"""The weight of pairs within a domain."""
