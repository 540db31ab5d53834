"""The base class of every algorithm: DomainBed's interface, optimiser steps, learning-rate schedule.

An objective that is a function of features, logits and labels overrides :meth:`ERM.objective` (see ``erm.py``). One
that needs its own optimisers or several passes overrides ``update``. :meth:`Algorithm.step` adds the routing losses of
mixture-of-experts backbones to every objective.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from sfmoe_dg.algorithms.common_hparams import common_hparams
from sfmoe_dg.algorithms.shared.optimisation import (
    clip_gradients,
    fuse_on_cuda,
    lr_factor,
    optimizers,
    parameter_groups,
    set_lr_factor,
)
from sfmoe_dg.algorithms.shared.precision import Precision
from sfmoe_dg.data.batches.transforms import IMAGENET_MEAN, IMAGENET_STD
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.host_counters import HostBuffers
from sfmoe_dg.runs.execution import PARALLEL_MODES as PARALLEL_MODES  # re-exported for the objectives
from sfmoe_dg.runs.hparams import Hparam

Minibatches = Sequence[tuple[Tensor, Tensor]]

Scalar: TypeAlias = float | Tensor
"""A number, or a tensor that holds one and stays on its device until the number is needed."""
Values: TypeAlias = Mapping[str, Scalar]
"""Named scalars that an update returns for the records."""


def unread(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Scalars for the records: still on their device, detached from the graph."""
    return {name: value.detach() for name, value in values.items()}


def wide(value: Tensor) -> Tensor:
    """A scalar that will be averaged for the records: detached, in float64 where the device supports it."""
    return value.detach() if value.device.type == "mps" else value.detach().double()


@dataclass(frozen=True)
class Forward:
    """The results of a forward pass over the minibatches of all training domains, one entry per domain.

    ``features[d]`` is [B_d, n_outputs], ``logits[d]`` [B_d, classes], ``labels[d]`` [B_d]. ``routing_losses`` are
    weighted scalars that the backbone returns; a dense backbone returns none.
    """

    features: list[Tensor]
    logits: list[Tensor]
    labels: list[Tensor]
    routing_losses: dict[str, Tensor]

    @property
    def all_logits(self) -> Tensor:
        return torch.cat(self.logits)

    @property
    def all_labels(self) -> Tensor:
        return torch.cat(self.labels)


class Parallel(Protocol):
    """How several processes share an update; implemented in :mod:`sfmoe_dg.training.sharing.shared_updates`."""

    def run(self, images: list[Tensor]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Call ``ERM.run_passes`` in such a way that the gradients of all processes are combined."""

    def gather_all(self, forward: Forward) -> Forward:
        """Features, logits and labels of the whole minibatches, of which ``forward`` holds this process's share."""

    def clip_gradients(self, optimizer: torch.optim.Optimizer, max_norm: float) -> None:
        """As :func:`clip_gradients`, by the joint norm over the weights of all processes."""

    def adopt(self, optimizer: torch.optim.Optimizer) -> None:
        """Called with every optimiser that is created while processes share updates."""


class Algorithm(HostBuffers):
    """The base class of algorithms, with DomainBed's interface (``domainbed.algorithms.Algorithm``).

    The constructor builds network and optimisers; the module may be moved to a device afterwards.

    Args:
        input_shape: (channels, height, width) of an image, or (length,) of a vector.
        num_classes: number of classes.
        num_domains: number of **training** domains.
        hparams: a value for every name of :meth:`hparam_table`.

    Examples:
        >>> import torch
        >>> from sfmoe_dg import ALGORITHMS, Algorithm, default_hparams
        >>> hparams = default_hparams("CORAL", "StyledDigits")
        >>> algorithm = ALGORITHMS.load("CORAL")((3, 32, 32), num_classes=10, num_domains=3, hparams=hparams)
        >>> isinstance(algorithm, Algorithm)
        True
        >>> minibatches = [(torch.rand(8, 3, 32, 32), torch.arange(8)) for _ in range(3)]
        >>> sorted(algorithm.update(minibatches))
        ['loss', 'penalty']
        >>> algorithm.predict(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    on_host = ("update_count",)

    paper: ClassVar[str] = ""
    """Authors, short title and year, for ``sfmoe-dg list algorithms``."""
    min_domains: ClassVar[int] = 1
    """The smallest number of training domains for which the objective is defined."""
    min_batch_size: ClassVar[int] = 1
    """The smallest number of images per domain for which the objective is defined."""
    uses_unlabeled: ClassVar[bool] = False
    """Whether ``update`` uses ``unlabeled``; none of DomainBed's algorithms does."""
    needs_validation_loss: bool = False
    """Whether the trainer computes a validation loss before every evaluation and passes it to :meth:`validated`. The
    loss is the cross-entropy of :meth:`validation_logits` on the training domains' out-splits, without augmentation,
    averaged over domains."""
    predicts_in_context: ClassVar[bool] = False
    """Whether a prediction depends on the other images of its batch; evaluation then shuffles the images."""
    parallel_modes: ClassVar[tuple[str, ...]] = ()
    """The modes of :data:`PARALLEL_MODES` in which several processes can share an update. Not inherited by a class
    that overrides ``update``, ``objective`` or ``forward_domains``: it has none until it declares its own."""
    parallel: Parallel | None = None
    """Set while several processes share the updates. A class attribute, so that it is not part of the saved state."""
    cannot_compile: ClassVar[str] = ""
    """Why the backbone cannot run through ``torch.compile``, worded as the end of a sentence "NAME, which …"; empty if
    it can."""
    waits_for_device: ClassVar[str] = ""
    """Why an update must read numbers from the device before it can go on; empty if it need not."""
    needs: ClassVar[str] = ""
    """Other requirements in a few words, for ``sfmoe-dg list algorithms``."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if vars(cls).keys() & {"update", "objective", "forward_domains"} and "parallel_modes" not in vars(cls):
            cls.parallel_modes = ()

    def __init__(
        self, input_shape: tuple[int, ...], num_classes: int, num_domains: int, hparams: dict[str, Any]
    ) -> None:
        super().__init__()
        self.input_shape = tuple(input_shape)
        self.num_classes = num_classes
        self.num_domains = num_domains
        self.hparams = hparams
        self.precision = Precision()
        self._lr_factor = 1.0

    @property
    def normalization(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation with which images are normalised: the backbone's, or else ImageNet's."""
        backbone = getattr(self, "featurizer", None)
        return getattr(backbone, "normalization", (IMAGENET_MEAN, IMAGENET_STD))

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        """The hyper-parameters of the algorithm on one data set; subclasses add their own with ``|``."""
        return common_hparams(dataset)

    @classmethod
    def check_hparams(cls, hparams: dict[str, Any], where: str) -> None:
        """Refuse values that do not go together; the range of each value alone is declared in :meth:`hparam_table`.

        Args:
            where: where the values were given, for the message.

        Raises:
            UserError: naming the hyper-parameter.
        """
        if hparams["batch_size"] < cls.min_batch_size:
            raise UserError(
                f"hyper-parameter 'batch_size' in {where} is {hparams['batch_size']!r}; {cls.__name__} needs at least "
                f"{cls.min_batch_size} images of each domain in an update"
            )

    def describe_domains(self, descriptions: Sequence[Sequence[str]]) -> None:
        """Pass the attributes of every training domain (``DatasetFacts.domain_attributes``) to backbones that use them.

        Raises:
            UserError: if a backbone uses them and the data set has none.
        """
        module: Any
        for module in self.modules():
            if getattr(module, "uses_descriptions", False):
                if not descriptions:
                    raise UserError(
                        "routing level 'attribute' needs descriptions of the domains, and those of this data set have "
                        "none (domain_attributes in its facts); choose another routing level"
                    )
                module.describe_domains(descriptions)

    def update(self, minibatches: Minibatches, unlabeled: Sequence[Tensor] | None = None) -> Values:
        """One training step.

        Args:
            minibatches: (images, labels) of each training domain.
            unlabeled: images of each target domain, in the task domain_adaptation.

        Returns:
            scalars for the records. They remain tensors (:func:`unread`), because reading a number makes the program
            wait for the device.
        """
        raise NotImplementedError

    def predict(self, x: Tensor) -> Tensor:
        """Logits [B, num_classes]."""
        raise NotImplementedError

    def adam(self, parameters: Iterable[nn.Parameter] | None = None) -> torch.optim.Optimizer:
        """Adam with the run's learning rate and weight decay, as DomainBed uses for most algorithms."""
        groups: Any = self.parameters() if parameters is None else parameters
        layer_decay = self.hparams.get("layer_decay", 1.0)
        if layer_decay != 1.0:
            groups = parameter_groups(groups, self, self.hparams["lr"], layer_decay)
        optimizer = torch.optim.Adam(groups, lr=self.hparams["lr"], weight_decay=self.hparams["weight_decay"])
        set_lr_factor(optimizer, self._lr_factor)
        fuse_on_cuda(optimizer)
        if self.parallel is not None:
            self.parallel.adopt(optimizer)
        return optimizer

    def fit_optimizers(self) -> None:
        """Choose the optimisers' implementation for the device on which the weights are now."""
        for optimizer in optimizers(self):
            fuse_on_cuda(optimizer)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Algorithm:
        # Every move to a device calls this; the optimisers were built before the move.
        super()._apply(fn, recurse)
        self.fit_optimizers()
        return self

    def schedule(self, step: int, steps: int) -> None:
        """Set the learning rates for step ``step`` of ``steps``; the trainer calls this before every update."""
        self._lr_factor = lr_factor(step, steps, self.hparams)
        for optimizer in optimizers(self):
            set_lr_factor(optimizer, self._lr_factor)

    def step(
        self, optimizer: torch.optim.Optimizer, loss: Tensor, routing_losses: dict[str, Tensor], **logged: Tensor
    ) -> Values:
        """Minimise ``loss`` plus the routing losses by one optimiser step.

        Returns:
            ``loss`` without the routing losses, so that it can be compared with a dense model's; every routing loss
            under its own name; and ``logged``.
        """
        self.descend(sum(routing_losses.values(), start=loss), optimizer)
        return unread({"loss": loss} | logged | routing_losses)

    def descend(self, total: Tensor, *optimizers: torch.optim.Optimizer) -> None:
        """One step of every optimiser along the negative gradient of ``total``; no routing loss is added."""
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.precision.scaler.scale(total).backward()
        self.take_steps(*optimizers)

    def take_steps(self, *optimizers: torch.optim.Optimizer) -> None:
        """One step of every optimiser with the gradients stored in the parameters, clipped if ``grad_clip`` says so.

        The gradients must be scaled by the gradient scaler of :attr:`precision`.
        """
        for optimizer in optimizers:
            if self.hparams.get("grad_clip"):
                self.precision.scaler.unscale_(optimizer)
                clip = clip_gradients if self.parallel is None else self.parallel.clip_gradients
                clip(optimizer, self.hparams["grad_clip"])
            self.precision.scaler.step(optimizer)
        self.precision.scaler.update()

    def validation_logits(self, x: Tensor) -> Tensor:
        """Logits for the validation loss; override where :meth:`predict` does not use the network being trained."""
        return self.predict(x)

    def validated(self, loss: float) -> None:
        """Called with the validation loss before every evaluation, if :attr:`needs_validation_loss`."""
