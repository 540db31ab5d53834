"""Domain-adversarial training (DANN): a discriminator predicts the domain, and the featurizer prevents it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfmoe_dg.algorithms.base import Minibatches, Values, unread
from sfmoe_dg.algorithms.common_hparams import weight_decay
from sfmoe_dg.algorithms.erm import ERM
from sfmoe_dg.algorithms.shared.adversaries import make_discriminator, takes_discriminator_turn
from sfmoe_dg.algorithms.shared.domains import domain_labels
from sfmoe_dg.algorithms.shared.optimisation import refuse_layer_decay
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.runs.hparams import Hparam, choice, int_log2_uniform, log10_uniform


class DANN(ERM):
    """Train a discriminator of the domain, and a network that minimises cross-entropy while confusing it.

    ``d_steps_per_g_step`` updates of the discriminator alternate with one update of the network. The discriminator
    minimises its cross-entropy plus ``grad_penalty`` times a penalty on its gradient, the network its cross-entropy
    minus ``lambda`` times the discriminator's loss.

    Follows DomainBed (``AbstractDANN``), which alternates updates instead of reversing the gradient in one pass, and
    ignores unlabeled images. With ``adapt`` the unlabeled images of the task domain_adaptation form one more domain of
    the discriminator, as in the paper; DomainBed has no such option. Unlike in DomainBed, the discriminator's update
    computes no gradients of the featurizer.
    """

    paper = "Ganin et al., Domain-Adversarial Training of Neural Networks, 2016"
    conditional: ClassVar[bool] = False
    """Whether the discriminator sees the label and all classes have equal weight (CDANN)."""
    uses_unlabeled = True
    update_count: Tensor

    def __init__(
        self, input_shape: tuple[int, ...], num_classes: int, num_domains: int, hparams: dict[str, Any]
    ) -> None:
        super().__init__(input_shape, num_classes, num_domains, hparams)
        self.register_buffer("update_count", torch.tensor([0]))
        width = self.featurizer.n_outputs
        self.adapts = bool(hparams.get("adapt", False))
        if self.adapts and self.featurizer.uses_domains:
            raise UserError(
                "hyper-parameter 'adapt' uses images of the target domains, but this backbone routes by training "
                "domain; set 'adapt' to false or choose another backbone"
            )
        self.discriminator = make_discriminator(width, num_domains + self.adapts, hparams)
        self.class_embeddings = nn.Embedding(num_classes, width)
        betas = (hparams["beta1"], 0.9)
        self.disc_opt = torch.optim.Adam(
            chain(self.discriminator.parameters(), self.class_embeddings.parameters()),
            lr=hparams["lr_d"],
            weight_decay=hparams["weight_decay_d"],
            betas=betas,
        )
        self.gen_opt = torch.optim.Adam(
            self.network.parameters(), lr=hparams["lr_g"], weight_decay=hparams["weight_decay_g"], betas=betas
        )

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        table = super().hparam_table(dataset) | ({"adapt": Hparam(False)} if cls.uses_unlabeled else {})
        return table | {
            "lambda": Hparam(1.0, log10_uniform(-2, 2)),
            "weight_decay_d": Hparam(0.0, log10_uniform(-6, -2), low=0),
            "d_steps_per_g_step": Hparam(1, int_log2_uniform(0, 3), low=1),
            "grad_penalty": Hparam(0.0, log10_uniform(-2, 1)),
            "beta1": Hparam(0.5, choice(0.0, 0.5), low=0, below=1),
            "mlp_width": Hparam(256, int_log2_uniform(6, 10), low=1),
            "mlp_depth": Hparam(3, choice(3, 4, 5), low=1),
            "mlp_dropout": Hparam(0.0, choice(0.0, 0.1, 0.5), low=0, high=1),
            "lr_g": table["lr"],
            "lr_d": table["lr"],
            "weight_decay_g": weight_decay(dataset),
        }

    @classmethod
    def check_hparams(cls, hparams: dict[str, Any], where: str) -> None:
        super().check_hparams(hparams, where)
        refuse_layer_decay(hparams, cls.__name__, where)

    def update(self, minibatches: Minibatches, unlabeled: Sequence[Tensor] | None = None) -> Values:
        labeled = len(minibatches)
        if self.adapts:
            minibatches = [*minibatches, self._as_minibatch(unlabeled)]
        # The count is a buffer, so that a checkpoint restores whose turn it is.
        self.update_count += 1
        if takes_discriminator_turn(self.update_count, self.hparams["d_steps_per_g_step"]):
            with torch.no_grad():
                features = torch.cat(self.forward_domains(minibatches).features)
            disc_loss = self.discriminator_loss(features, minibatches)
            self.descend(disc_loss, self.disc_opt)
            return unread({"disc_loss": disc_loss})
        forward = self.forward_domains(minibatches)
        disc_loss = self.discriminator_loss(torch.cat(forward.features), minibatches)
        class_loss = F.cross_entropy(torch.cat(forward.logits[:labeled]), torch.cat(forward.labels[:labeled]))
        gen_loss = class_loss - self.hparams["lambda"] * disc_loss
        self.descend(sum(forward.routing_losses.values(), start=gen_loss), self.gen_opt)
        return unread({"gen_loss": gen_loss} | forward.routing_losses)

    @staticmethod
    def _as_minibatch(unlabeled: Sequence[Tensor] | None) -> tuple[Tensor, Tensor]:
        """The unlabeled images of all target domains, with placeholder labels that are not used."""
        if not unlabeled:
            raise UserError(
                "hyper-parameter 'adapt' needs unlabeled images: use it with task domain_adaptation", "task"
            )
        x = torch.cat(list(unlabeled))
        return x, torch.zeros(len(x), dtype=torch.int64, device=x.device)

    def discriminator_loss(self, features: Tensor, minibatches: Minibatches) -> Tensor:
        """The cross-entropy of the domain, plus ``grad_penalty`` times the mean squared norm of its input gradient."""
        labels = torch.cat([y for _, y in minibatches])
        domains = domain_labels(minibatches)
        inputs = features + self.class_embeddings(labels) if self.conditional else features
        penalised = self.hparams["grad_penalty"] != 0
        if penalised and not inputs.requires_grad:
            inputs.requires_grad_()
        losses = F.cross_entropy(self.discriminator(inputs), domains, reduction="none")
        loss = (class_balanced_weights(labels) * losses).sum() if self.conditional else losses.mean()
        if not penalised:
            return loss
        (gradient,) = torch.autograd.grad(losses.sum(), inputs, create_graph=True)
        return loss + self.hparams["grad_penalty"] * gradient.square().sum(1).mean()


def class_balanced_weights(labels: Tensor) -> Tensor:
    """Weights [B] of images with labels [B], such that all classes of the batch have the same total weight.

    As in DomainBed, the weights sum to (number of classes in the batch) / (largest label in the batch + 1).

    Examples:
        >>> class_balanced_weights(torch.tensor([0, 1, 1]))
        tensor([0.5000, 0.2500, 0.2500])
    """
    # Not by bincount, which waits for the device because the length of its result depends on the values.
    counts = labels[:, None].eq(labels).sum(1)
    return 1.0 / (counts * (labels.max() + 1)).float()
