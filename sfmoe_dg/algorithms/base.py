"""What every objective shares: DomainBed's interface, one forward pass over all domains, one optimiser step.

An objective that looks at features and logits overrides :meth:`ERM.objective` (see ``erm.py``); one that needs
its own optimisers or several passes overrides ``update``. Routing losses of mixture-of-experts backbones are
added by :meth:`Algorithm.step`, whatever the objective.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from sfmoe_dg.algorithms.common_hparams import MODEL_DEFAULT, NOT_NEGATIVE, POSITIVE, RANGES, common_hparams
from sfmoe_dg.algorithms.optimisation import (
    clip_gradients,
    fuse_on_cuda,
    lr_factor,
    optimizers,
    parameter_groups,
    set_lr_factor,
)
from sfmoe_dg.data.batches.transforms import IMAGENET_MEAN, IMAGENET_STD
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.host_counters import HostBuffers
from sfmoe_dg.runs.hparams import Hparam, require_positive, require_within
from sfmoe_dg.runs.spec import PARALLEL_MODES as PARALLEL_MODES  # for objectives, which need no other module than this

Minibatches = Sequence[tuple[Tensor, Tensor]]

Scalar: TypeAlias = float | Tensor
"""A number, or a tensor of one that stays on its device until somebody needs the number."""
Values: TypeAlias = Mapping[str, Scalar]
"""What an update returns for the records, by name."""


def unread(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Scalars for the records as they are on the device, without the graph that made them."""
    return {name: value.detach() for name, value in values.items()}


def wide(value: Tensor) -> Tensor:
    """A scalar for the records that is yet to be averaged, in float64 where the device has it."""
    return value.detach() if value.device.type == "mps" else value.detach().double()


@dataclass(frozen=True)
class Forward:
    """One forward pass over the minibatches of all training domains, split by domain again.

    ``features[d]`` is [B_d, n_outputs], ``logits[d]`` [B_d, classes], ``labels[d]`` [B_d]; ``routing_losses`` are
    the backbone's own weighted scalars, empty for a dense one.
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
    """What an update needs where several processes share it (:mod:`sfmoe_dg.training.sharing.shared_updates`)."""

    def run(self, images: list[Tensor]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """What ``ERM.run_passes`` returns, run such that the gradients of all processes meet."""

    def everyones(self, forward: Forward) -> Forward:
        """The whole minibatches, of which ``forward`` holds this process's part."""

    def clip_gradients(self, optimizer: torch.optim.Optimizer, max_norm: float) -> None:
        """:func:`clip_gradients` by the norm over all processes' weights."""

    def adopt(self, optimizer: torch.optim.Optimizer) -> None:
        """Told of every optimiser that is made while processes share updates."""


class Precision:
    """Autocast, and the gradient scaler that float16 needs; 'fp32' does nothing."""

    def __init__(self, name: str = "fp32", device_type: str = "cpu") -> None:
        self.dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
        self.device_type = device_type
        self.scaler = torch.amp.GradScaler(device_type, enabled=name == "fp16")

    def state_dict(self) -> dict[str, Any]:
        """What training changes: the scaler's state."""
        return self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scaler.load_state_dict(state)

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of an update or a prediction.

        Without the cache of half-precision weights: it would last for a whole update, and an objective that steps and
        runs the network again (Fish, MLDG, SAM) would run on the old weights.
        """
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device_type, dtype=self.dtype, cache_enabled=False)


class Algorithm(HostBuffers):
    """A learner with DomainBed's interface (``domainbed.algorithms.Algorithm``).

    Args:
        input_shape: (channels, height, width) of an image, or (length,) of a vector.
        num_classes: number of classes.
        num_domains: number of **training** domains.
        hparams: every name of :meth:`hparam_table`.

    The constructor builds the optimiser; the module may be moved to a device afterwards.

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
    """Authors, title's short form and year, for ``sfmoe-dg list algorithms``."""
    min_domains: ClassVar[int] = 1
    """The fewest training domains with which the objective is defined."""
    min_batch_size: ClassVar[int] = 1
    """The fewest images of each domain with which the objective is defined."""
    uses_unlabeled: ClassVar[bool] = False
    """Whether ``update`` looks at ``unlabeled``; none of upstream's algorithms does."""
    needs_validation_loss: bool = False
    """Whether the trainer computes, before every evaluation, the mean over training domains of the cross-entropy of
    :meth:`validation_logits` on their out-splits, without augmentation, and tells :meth:`validated`."""
    predicts_in_context: ClassVar[bool] = False
    """Whether a prediction depends on the other images of its batch: evaluation then shuffles the images."""
    parallel_modes: ClassVar[tuple[str, ...]] = ()
    """The modes of :data:`PARALLEL_MODES` in which several processes can share an update. A class that changes what an
    update computes starts with none, whatever it inherits, and says for itself."""
    parallel: Parallel | None = None
    """Set where several processes share the updates; of the class, so that it is no part of an algorithm's state."""
    cannot_compile: ClassVar[str] = ""
    """Why the backbone cannot run through ``torch.compile`` (option ``compile``), if so: "takes … of it"."""
    needs: ClassVar[str] = ""
    """What it needs that none of the attributes above says, a few words for ``sfmoe-dg list algorithms``."""

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
        """Mean and standard deviation that pictures are normalised with: the backbone's own, or ImageNet's."""
        backbone = getattr(self, "featurizer", None)
        return getattr(backbone, "normalization", (IMAGENET_MEAN, IMAGENET_STD))

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        """Names, defaults and search ranges on one data set; subclasses add theirs with ``|``."""
        return common_hparams(dataset)

    @classmethod
    def check_hparams(cls, hparams: dict[str, Any], where: str) -> None:
        """Refuse values with which training cannot run; subclasses may check more."""
        require_positive(hparams, [name for name in POSITIVE if name in hparams], where)
        if hparams["batch_size"] < cls.min_batch_size:
            raise UserError(
                f"hyper-parameter 'batch_size' in {where} is {hparams['batch_size']!r}; {cls.__name__} needs at least "
                f"{cls.min_batch_size} images of each domain in an update"
            )
        for name, (low, high) in RANGES.items():
            if name in hparams and hparams[name] != MODEL_DEFAULT:
                require_within(hparams, name, low, high, where)
        for name in NOT_NEGATIVE:
            if name in hparams and hparams[name] < 0:
                raise UserError(f"hyper-parameter {name!r} in {where} is {hparams[name]!r}; it must not be negative")

    def describe_domains(self, descriptions: Sequence[Sequence[str]]) -> None:
        """Tell backbones that use them the attributes of every training domain (``DatasetFacts.domain_attributes``).

        Raises:
            UserError: if a backbone uses them and there are none.
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
        """One training step on a list of (x, y), one per training domain; returns what the records keep.

        Numbers that the step has made stay tensors (:func:`unread`): an update that reads one waits for the device.
        """
        raise NotImplementedError

    def predict(self, x: Tensor) -> Tensor:
        """Logits [B, num_classes]."""
        raise NotImplementedError

    def adam(self, parameters: Iterable[nn.Parameter] | None = None) -> torch.optim.Optimizer:
        """Adam at the run's learning rate and weight decay, upstream's choice for every algorithm."""
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
        """Have the optimisers step as suits the device that the weights are on now."""
        for optimizer in optimizers(self):
            fuse_on_cuda(optimizer)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Algorithm:
        # Through here goes every move to a device; the optimisers were built before it.
        super()._apply(fn, recurse)
        self.fit_optimizers()
        return self

    def schedule(self, step: int, steps: int) -> None:
        """Set the learning rates of a step; the trainer calls it before every update."""
        self._lr_factor = lr_factor(step, steps, self.hparams)
        for optimizer in optimizers(self):
            set_lr_factor(optimizer, self._lr_factor)

    def step(
        self, optimizer: torch.optim.Optimizer, loss: Tensor, routing_losses: dict[str, Tensor], **logged: Tensor
    ) -> Values:
        """Minimise ``loss`` plus the routing losses by one optimiser step.

        Returns:
            ``loss`` (without routing losses, so that it compares with a dense model's), every routing loss
            under its own name, and ``logged``.
        """
        self.descend(sum(routing_losses.values(), start=loss), optimizer)
        return unread({"loss": loss} | logged | routing_losses)

    def descend(self, total: Tensor, *optimizers: torch.optim.Optimizer) -> None:
        """One step of every optimiser down the gradient of ``total``, which is taken as it is."""
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.precision.scaler.scale(total).backward()
        self.take_steps(*optimizers)

    def take_steps(self, *optimizers: torch.optim.Optimizer) -> None:
        """One step of every optimiser along the gradients that are there, scaled by the precision's scaler."""
        for optimizer in optimizers:
            if self.hparams.get("grad_clip"):
                self.precision.scaler.unscale_(optimizer)
                clip = clip_gradients if self.parallel is None else self.parallel.clip_gradients
                clip(optimizer, self.hparams["grad_clip"])
            self.precision.scaler.step(optimizer)
        self.precision.scaler.update()

    def validation_logits(self, x: Tensor) -> Tensor:
        """What the validation loss is taken of; override where :meth:`predict` is not the network being trained."""
        return self.predict(x)

    def validated(self, loss: float) -> None:
        """Told the validation loss before every evaluation, if :attr:`needs_validation_loss`."""
