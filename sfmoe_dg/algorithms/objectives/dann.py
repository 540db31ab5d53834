"""Domain-adversarial training: a discriminator guesses the domain, the featurizer keeps it from succeeding."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfmoe_dg.algorithms.base import Minibatches, Values, unread
from sfmoe_dg.algorithms.erm import ERM
from sfmoe_dg.algorithms.optimisation import refuse_layer_decay
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.models.architectures.mnist_cnn import MLP
from sfmoe_dg.runs.hparams import SMALL_IMAGES, Hparam, choice, int_log2_uniform, log10_uniform, require_positive


class DANN(ERM):
    """The discriminator minimises its cross-entropy (plus a penalty on its gradient), the network cross-entropy
    minus ``lambda`` times the discriminator's loss; ``d_steps_per_g_step`` turns of the former to one of the latter.

    Follows DomainBed (``AbstractDANN``), which has the players take turns instead of reversing gradients in one pass,
    and ignores unlabeled images. With ``adapt`` those of the task domain_adaptation join the discriminator's game as
    one more domain, which is what the paper does; upstream has no such choice.
    In the discriminator's turn the featurizer's gradients, which upstream computes and drops, are left out.
    """

    paper = "Ganin et al., Domain-Adversarial Training of Neural Networks, 2016"
    conditional: ClassVar[bool] = False
    """Whether the discriminator is told the label, and classes count equally (CDANN)."""
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
            raise UserError("'adapt' feeds images of no training domain to a backbone that wants to know the domain")
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
            "weight_decay_d": Hparam(0.0, log10_uniform(-6, -2)),
            "d_steps_per_g_step": Hparam(1, int_log2_uniform(0, 3)),
            "grad_penalty": Hparam(0.0, log10_uniform(-2, 1)),
            "beta1": Hparam(0.5, choice(0.0, 0.5)),
            "mlp_width": Hparam(256, int_log2_uniform(6, 10)),
            "mlp_depth": Hparam(3, choice(3, 4, 5)),
            "mlp_dropout": Hparam(0.0, choice(0.0, 0.1, 0.5)),
            "lr_g": table["lr"],
            "lr_d": table["lr"],
            "weight_decay_g": Hparam(0.0) if dataset in SMALL_IMAGES else Hparam(0.0, log10_uniform(-6, -2)),
        }

    @classmethod
    def check_hparams(cls, hparams: dict[str, Any], where: str) -> None:
        super().check_hparams(hparams, where)
        require_positive(hparams, ["lr_g", "lr_d", "d_steps_per_g_step"], where)
        refuse_layer_decay(hparams, cls.__name__, where)

    def update(self, minibatches: Minibatches, unlabeled: Sequence[Tensor] | None = None) -> Values:
        labeled = len(minibatches)
        if self.adapts:
            minibatches = [*minibatches, self._as_minibatch(unlabeled)]
        # A buffer, so that whose turn it is survives in a checkpoint.
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
        """The unlabeled images of all target domains; the labels are placeholders that nothing looks at."""
        if not unlabeled:
            raise UserError("hyper-parameter 'adapt' wants unlabeled images: use it with --task domain_adaptation")
        x = torch.cat(list(unlabeled))
        return x, torch.zeros(len(x), dtype=torch.int64, device=x.device)

    def discriminator_loss(self, features: Tensor, minibatches: Minibatches) -> Tensor:
        """Cross-entropy of the domain, plus the mean squared norm of its gradient with respect to the input."""
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


def make_discriminator(in_features: int, num_domains: int, hparams: dict[str, Any]) -> nn.Module:
    """DomainBed's multi-layer perceptron from features to one logit per domain."""
    mlp = MLP(in_features, hparams["mlp_width"], hparams["mlp_depth"], hparams["mlp_dropout"])
    mlp.output = nn.Linear(hparams["mlp_width"], num_domains)
    mlp.num_features = num_domains
    return mlp


def takes_discriminator_turn(update_count: Tensor, d_steps_per_g_step: int) -> bool:
    """Whether the update of this number, counted from 1, is the discriminator's."""
    return int(update_count.item()) % (1 + d_steps_per_g_step) < d_steps_per_g_step


def domain_labels(minibatches: Minibatches) -> Tensor:
    """The number of every image's training domain, int64 [B of all domains]."""
    return torch.cat([torch.full_like(y, i) for i, (_, y) in enumerate(minibatches)])


def class_balanced_weights(labels: Tensor) -> Tensor:
    """Weights [B] under which every class of the batch counts the same.

    As upstream has it they sum to the number of classes seen over the highest label seen plus one.
    """
    # Not by bincount, which waits for the device to know how long its result is.
    counts = labels[:, None].eq(labels).sum(1)
    return 1.0 / (counts * (labels.max() + 1)).float()
