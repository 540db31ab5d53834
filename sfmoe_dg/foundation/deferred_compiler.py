"""Import torch's compiler, ``torch._dynamo``, only when something is compiled.

The compiler and its dependencies (inductor, sympy, triton, and more) are half of what a run imports, even a run that
compiles nothing: the first optimizer, ``torchvision.ops`` and one of timm's models import it to mark functions that it
must not trace. :func:`defer_compiler` puts a stand-in module in its place, which remembers these marks. Any other
use, such as ``torch.compile``, imports the real module, and the marks then apply to it.
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
    """Put the stand-in into ``sys.modules``, unless the compiler has been imported already."""
    if any(name.startswith(NAME) for name in sys.modules):
        return
    sys.modules[NAME], sys.modules[UTILS] = _StandIn(NAME), _StandInForUtils(UTILS)
    sys.meta_path.insert(0, _Submodules())


def is_deferred() -> bool:
    """Whether the stand-in is still in place of the compiler."""
    return isinstance(sys.modules.get(NAME), _StandIn)


def _real(name: str) -> Any:
    """Import a module of the real compiler; remove the stand-ins if they are still in place."""
    if is_deferred():
        del sys.modules[NAME], sys.modules[UTILS]
        sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Submodules)]
    return importlib.import_module(name)


class _StandIn(ModuleType):
    """Has the functions of ``torch._dynamo`` that optimizers and decorators use; other names come from the real one."""

    __path__: MutableSequence[str] = []  # noqa: RUF012 - the type that ModuleType gives it

    def __getattr__(self, name: str) -> Any:
        # importlib looks up names such as __spec__ on every module; that is no use of the compiler.
        if name.startswith("__"):
            raise AttributeError(f"module {NAME!r} has no attribute {name!r}")
        return getattr(_real(NAME), name)

    @staticmethod
    def graph_break(msg: str = "") -> None:
        """Do nothing, as the real function does while nothing is traced."""

    @staticmethod
    def disable(fn: Any = None, *args: Any, **kwargs: Any) -> Any:
        """``fn``, marked: if the compiler is ever imported, it will not trace it."""
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
    """``torchvision.ops.roi_align`` imports one function from ``torch._dynamo.utils``, and calls it only in its own."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {UTILS!r} has no attribute {name!r}")
        return getattr(_real(UTILS), name)

    @staticmethod
    def is_compile_supported(device_type: Any) -> Any:
        return _real(UTILS).is_compile_supported(device_type)


class _Submodules(MetaPathFinder):
    """Importing any other module below ``torch._dynamo`` imports the real compiler."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, _AsItIs()) if name.startswith(f"{NAME}.") else None


class _AsItIs(Loader):
    """Returns a module that has just been imported in the usual way, so that it is not executed twice."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module: ModuleType = _real(spec.name)
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # importlib has just put the finder's spec there. torch's modules of settings refuse such assignments.
        with suppress(AttributeError):
            module.__spec__ = self.spec
