"""Wrappers that give DomainBed's algorithms our interface.

``from sfmoe_dg.compat.domainbed.upstream_algorithms import CORAL`` wraps the CORAL of the checkout that the plug-in
opened (``sfmoe_dg/compat/domainbed/plugin.py``), whatever its version.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial, reduce
from math import inf
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sfmoe_dg.algorithms.base import Algorithm, Minibatches
from sfmoe_dg.algorithms.registry import ALGORITHMS
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.runs.hparams import Hparam, plain

SCRATCH = {"Fish": ("network_inner", "optimizer_inner"), "EQRM": ("dist.kde",)}
"""Attributes that algorithms keep between updates but compute anew in every update."""

NEEDS = {"Fishr": "backpack-for-pytorch 1.3.0"}


class StaysOnCpu(TorchFunctionMode):
    """Inside the block ``.cuda()`` does nothing; some of DomainBed's algorithms call it even without a GPU."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return args[0] if func is Tensor.cuda else func(*args, **(kwargs or {}))


class UpstreamAlgorithm(Algorithm):
    """One of DomainBed's algorithms. Subclasses, one per name, are made by :func:`wrap`.

    ``state_dict`` has DomainBed's own keys.
    """

    name: ClassVar[str]
    upstream_class: ClassVar[type[nn.Module]]
    calls_cuda: ClassVar[bool]

    def __init__(
        self, input_shape: tuple[int, ...], num_classes: int, num_domains: int, hparams: dict[str, Any]
    ) -> None:
        super().__init__(input_shape, num_classes, num_domains, hparams)
        try:
            with self._without_cuda():
                self.upstream: Any = self.upstream_class(self.input_shape, num_classes, num_domains, self.hparams)
        except NotImplementedError:
            raise UserError(
                f"DomainBed's {self.name} has no network for pictures of shape {self.input_shape}"
            ) from None
        except (AssertionError, OSError) as error:
            # Fishr asserts that backpack is installed; the networks for 224 px download their weights.
            raise UserError(
                f"DomainBed's {self.name} cannot be built here: {error or 'an assertion failed'}"
            ) from error

    @classmethod
    def hparam_table(cls, dataset: str) -> dict[str, Hparam]:
        """DomainBed's own names, defaults and draws for this data set."""
        registry = import_upstream("hparams_registry")
        defaults = registry.default_hparams(cls.name, dataset)
        drawn = registry.random_hparams(cls.name, dataset, 0)
        return {
            name: Hparam(
                plain(default),
                types=tuple({type(plain(default)), type(plain(drawn[name]))}),
                above=0 if name in ("batch_size", "lr") else -inf,
                from_seed=partial(draw, cls.name, dataset, name),
            )
            for name, default in defaults.items()
        }

    def update(self, minibatches: Minibatches, unlabeled: Sequence[Tensor] | None = None) -> dict[str, float]:
        if self.precision.scaler.is_enabled():
            raise UserError(
                f"precision is 'fp16', which needs scaled gradients, and DomainBed's {self.name} takes its own steps "
                "without them; use bf16 or fp32",
                "precision",
            )
        with self._without_cuda():
            values = self.upstream.update(list(minibatches), unlabeled)
        self._forget()
        return {name: float(value) for name, value in values.items()}

    def predict(self, x: Tensor) -> Tensor:
        return self.upstream.predict(x)

    def train(self, mode: bool = True) -> UpstreamAlgorithm:
        """Calls DomainBed's ``train()`` or ``eval()`` without arguments, since TRM's take none."""
        self.training = mode
        if mode:
            self.upstream.train()
        else:
            self.upstream.eval()
        return self

    def schedule(self, step: int, steps: int) -> None:
        """DomainBed's learning rates are its own."""

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        state: dict[str, Any] = self.upstream.state_dict(*args, **kwargs)
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        for name, buffer in self.upstream.named_buffers():
            if buffer.numel() == 0 and name in state_dict:
                # GroupDRO makes its weights of domains in its first update.
                buffer.resize_(state_dict[name].shape)
        return self.upstream.load_state_dict(state_dict, *args, **kwargs)

    def _forget(self) -> None:
        """Drop what the next update computes anew, so that the saved state fits an algorithm without updates."""
        for name in SCRATCH.get(self.name, ()):
            *path, last = name.split(".")
            owner = reduce(getattr, path, self.upstream)
            if getattr(owner, last, None) is not None:
                setattr(owner, last, None)

    def _without_cuda(self) -> AbstractContextManager[Any]:
        return StaysOnCpu() if self.calls_cuda and not torch.cuda.is_available() else nullcontext()


@cache
def wrap(name: str) -> type[UpstreamAlgorithm]:
    """The wrapper class of one of DomainBed's algorithms.

    Raises:
        UserError: if its modules cannot be imported.
    """
    upstream_class = import_upstream("algorithms").get_algorithm_class(name)
    namespace: dict[str, Any] = {
        "name": name,
        "upstream_class": upstream_class,
        "calls_cuda": ".cuda()" in inspect.getsource(upstream_class),
        "needs": NEEDS.get(name, ""),
    }
    if name in ALGORITHMS:
        # Facts about the method hold for both implementations.
        native = ALGORITHMS.load(name)
        namespace |= {fact: getattr(native, fact) for fact in ("paper", "min_domains", "predicts_in_context")}
    return type(f"Upstream{name}", (UpstreamAlgorithm,), namespace)


def __getattr__(name: str) -> type[UpstreamAlgorithm]:
    """The wrapper class of a registered name."""
    if name.startswith("__"):
        raise AttributeError(name)
    return wrap(name)


def import_upstream(module: str) -> ModuleType:
    """A module of the open checkout.

    Raises:
        UserError: if something that it needs is not installed.
    """
    try:
        with _what_backpack_imports():
            return importlib.import_module(f"domainbed.{module}")
    except ModuleNotFoundError as error:
        raise UserError(
            f"DomainBed's {module}.py cannot be imported: {error}; install what the checkout's requirements.txt lists"
        ) from error


@contextmanager
def _what_backpack_imports() -> Iterator[None]:
    """Let backpack 1.3.0, the version that Fishr asks for, be imported beside a newer torch.

    backpack imports a private name for convolutions that torch has dropped; Fishr uses it for a linear layer only.
    """
    module: Any = importlib.import_module("torch.nn.grad")
    if hasattr(module, "_grad_input_padding"):
        yield
        return
    module._grad_input_padding = None
    try:
        yield
    finally:
        del module._grad_input_padding


def draw(algorithm: str, dataset: str, name: str, seed: int) -> Any:
    """One hyper-parameter of upstream's random draw."""
    return import_upstream("hparams_registry").random_hparams(algorithm, dataset, seed)[name]
