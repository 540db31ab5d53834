"""Representation self-challenging (RSC): mute the features on which a prediction depends most."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sfmoe_dg.algorithms.base import Minibatches, Values
from sfmoe_dg.algorithms.erm import ERM
from sfmoe_dg.runs.hparams import Hparam, uniform


class RSC(ERM):
    """Minimise cross-entropy after muting the features with the highest gradients, in the images that suffer most.

    In each image the share ``rsc_f_drop_factor`` of the features is muted, and this is done in the share
    ``rsc_b_drop_factor`` of the images. As in DomainBed, the features are pooled ones, so that every backbone can be
    used; the paper mutes positions and channels of a ResNet's last feature map. Equations below are the paper's.
    """

    paper = "Huang et al., Self-Challenging Improves Cross-Domain Generalization, 2020"

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        return super().hparam_table(dataset) | {
            "rsc_f_drop_factor": Hparam(1 / 3, uniform(0, 0.5), low=0, high=1),
            "rsc_b_drop_factor": Hparam(1 / 3, uniform(0, 0.5), low=0, high=1),
        }

    def update(self, minibatches: Minibatches, unlabeled: Sequence[Tensor] | None = None) -> Values:
        forward = self.forward_domains(minibatches)
        features, labels = torch.cat(forward.features), forward.all_labels
        kept = self._kept(features, self.classifier(features), labels)
        loss = F.cross_entropy(self.classifier(features * kept), labels)
        return self.step(self.optimizer, loss, forward.routing_losses)

    def _kept(self, features: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """The mask [B, D] of features: 1 to keep, 0 to mute."""
        index = labels.unsqueeze(1)
        # Equation 1: the gradient of the true class's score; equation 2: the features below its percentile.
        (gradient,) = torch.autograd.grad(logits.gather(1, index).sum(), features, retain_graph=True)
        below = gradient < percentile(gradient, 1 - self.hparams["rsc_f_drop_factor"])
        with torch.no_grad():
            # Section 3.3: mute only where the true class's probability drops most.
            muted = self.classifier(features * below)
            drop = (F.softmax(logits, 1) - F.softmax(muted, 1)).gather(1, index).squeeze(1)
            spared = drop < percentile(drop, 1 - self.hparams["rsc_b_drop_factor"])
        return (below | spared.unsqueeze(1)).to(features.dtype)


def percentile(values: Tensor, fraction: float) -> Tensor:
    """The linearly interpolated percentile along the last dimension, which is kept with size 1.

    As ``numpy.percentile``, but on the device. The position is rounded as there, which matters where it falls exactly
    on a value.
    """
    number = np.float64 if values.dtype == torch.float64 else np.float32
    position = number(fraction * 100) / number(100) * number(values.shape[-1] - 1)
    low = int(np.floor(position))
    high, share = min(low + 1, values.shape[-1] - 1), float(position - number(low))
    ordered = values.sort(-1).values
    return torch.lerp(ordered[..., low : low + 1], ordered[..., high : high + 1], share)
