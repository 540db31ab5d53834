"""``torch._dynamo`` stays unread until somebody compiles.

Torch's compiler and what it stands on (inductor, sympy, triton, and more) are half of what a run would import. Nobody
has to compile for that: the first optimizer, ``torchvision.ops`` and one of timm's models touch it, to mark functions
that it should leave alone. :func:`defer_compiler` puts a module in its place that takes the marks down. Whatever
else is asked of it (``torch.compile`` asks) imports the real one, which then honours the marks, too.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, MutableSequence
from contextlib import suppress
from functools import wraps
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import FunctionType, ModuleType
from typing import Any

NAME = "torch._dynamo"
UTILS = f"{NAME}.utils"


def defer_compiler() -> None:
    """Take the compiler's place in ``sys.modules``, unless it has been imported already."""
    if any(name.startswith(NAME) for name in sys.modules):
        return
    sys.modules[NAME], sys.modules[UTILS] = _StandIn(NAME), _StandInForUtils(UTILS)
    sys.meta_path.insert(0, _Submodules())


def is_deferred() -> bool:
    """Whether the stand-in is still there."""
    return isinstance(sys.modules.get(NAME), _StandIn)


def _real(name: str) -> Any:
    """A module of the compiler itself; the stand-ins go, if they are still there."""
    if is_deferred():
        del sys.modules[NAME], sys.modules[UTILS]
        sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Submodules)]
    return importlib.import_module(name)


class _StandIn(ModuleType):
    """Answers what optimizers and decorators ask of ``torch._dynamo``; everything else is answered by the real one."""

    __path__: MutableSequence[str] = []  # noqa: RUF012 - the type that ModuleType gives it

    def __getattr__(self, name: str) -> Any:
        # The import machinery looks for names such as __spec__ on any module; no function of the compiler has those.
        if name.startswith("__"):
            raise AttributeError(f"module {NAME!r} has no attribute {name!r}")
        return getattr(_real(NAME), name)

    @staticmethod
    def graph_break(msg: str = "") -> None:
        """Does nothing where nothing is traced, like the real one."""

    @staticmethod
    def disable(fn: Any = None, *args: Any, **kwargs: Any) -> Any:
        """``fn``, which the real one will be told to leave alone if it is ever imported."""
        return _marked(fn, args, kwargs) if isinstance(fn, FunctionType) else _real(NAME).disable(fn, *args, **kwargs)


def _marked(fn: FunctionType, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[..., Any]:
    disabled: Callable[..., Any] | None = None

    @wraps(fn)
    def call(*given: Any, **named: Any) -> Any:
        nonlocal disabled
        if disabled is None:
            if is_deferred():
                return fn(*given, **named)
            disabled = _real(NAME).disable(fn, *args, **kwargs)
        return disabled(*given, **named)

    return call


class _StandInForUtils(ModuleType):
    """``torchvision.ops.roi_align`` takes one function from there, and calls it when it is called itself."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {UTILS!r} has no attribute {name!r}")
        return getattr(_real(UTILS), name)

    @staticmethod
    def is_compile_supported(device_type: Any) -> Any:
        return _real(UTILS).is_compile_supported(device_type)


class _Submodules(MetaPathFinder):
    """Imports of other modules below ``torch._dynamo`` end the deferral."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, _AsItIs()) if name.startswith(f"{NAME}.") else None


class _AsItIs(Loader):
    """Hands over a module that has been imported the usual way meanwhile, so that it is not executed twice."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module: ModuleType = _real(spec.name)
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # importlib has just replaced it by the finder's, but in torch's modules of settings, which take no new names.
        with suppress(AttributeError):
            module.__spec__ = self.spec
