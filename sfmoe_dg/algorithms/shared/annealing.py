"""The base class of objectives whose penalty starts after a number of updates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from sfmoe_dg.algorithms.base import PARALLEL_MODES, Minibatches, Values
from sfmoe_dg.algorithms.erm import ERM


class AnnealedERM(ERM):
    """ERM that counts its updates and creates a new optimiser at the update at which a penalty starts.

    The gradients jump at that update, while Adam's running moments would still be those of the old gradients. The count
    is a buffer, so that it is saved with the model.
    """

    anneal_hparams: ClassVar[tuple[str, ...]] = ()
    """Names of the hyper-parameters that give the number of updates before a penalty starts."""
    parallel_modes = PARALLEL_MODES
    restart_lr_hparam: ClassVar[str] = "lr"
    """Name of the hyper-parameter with the learning rate of the new optimiser."""
    update_count: Tensor

    def __init__(
        self, input_shape: tuple[int, ...], num_classes: int, num_domains: int, hparams: dict[str, Any]
    ) -> None:
        super().__init__(input_shape, num_classes, num_domains, hparams)
        self.register_buffer("update_count", torch.tensor([0]))

    def annealed(self, name: str) -> bool:
        """Whether this update comes after the first ``hparams[name]`` updates."""
        return self.update_count.item() >= self.hparams[name]

    def update(self, minibatches: Minibatches, unlabeled: Sequence[Tensor] | None = None) -> Values:
        forward = self.forward_domains(minibatches)
        loss, logged = self.objective(forward)
        if any(self.update_count.item() == self.hparams[name] for name in self.anneal_hparams):
            self._restart()
        self.update_count += 1
        return self.step(self.optimizer, loss, forward.routing_losses, **logged)

    def _restart(self) -> None:
        self.optimizer = self.adam(self.network.parameters())
        ratio = self.hparams[self.restart_lr_hparam] / self.hparams["lr"]
        for group in self.optimizer.param_groups:
            # The schedule multiplies the initial rate.
            group["initial_lr"] *= ratio
            group["lr"] *= ratio
