"""Import torch, torchvision and timm in a third of the usual time."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any


@contextmanager
def quick_imports(*, compiling: bool = False, logging_to: tuple[str, ...] = ()) -> Iterator[None]:
    """Speed up the imports inside a ``with`` block.

    - Python's garbage collector is off: imports make hundreds of thousands of objects that stay, and the collector
      would look through all of them again and again. If torch is imported in the block, the collector ignores the
      objects made in it for good.
    - Torch's compiler is imported only when something is compiled (:mod:`sfmoe_dg.foundation.deferred_compiler`),
      unless ``compiling``.
    - Weights & Biases is hidden from timm, which would import it wherever it is installed; after the block it can be
      imported as usual. It is not hidden if ``logging_to`` contains ``"wandb"``.
    - The client of the Hugging Face Hub, and the HTTP library that it needs, are imported only when timm downloads
      something.
    """
    from sfmoe_dg.foundation.deferred_compiler import defer_compiler

    if not compiling:
        defer_compiler()
    hidden = "wandb" not in logging_to and "wandb" not in sys.modules
    if hidden:
        sys.modules["wandb"] = None  # type: ignore[assignment]  # importlib takes this for a missing module
    collecting, first = gc.isenabled(), "torch" not in sys.modules
    gc.disable()
    try:
        with _deferred_hub():
            yield
    finally:
        if first:
            gc.freeze()
        if collecting:
            gc.enable()
        if hidden:
            del sys.modules["wandb"]


@contextmanager
def _deferred_hub() -> Iterator[None]:
    """Inside the block, functions that timm imports from the Hub's client are stand-ins that import it when called."""
    waiting: dict[str, Any] = {}
    with suppress(ImportError):
        import huggingface_hub

        of_package = vars(huggingface_hub)  # the package imports its names lazily
        waiting = {name: partial(_ask_hub, name) for name in _HUB_NAMES if name not in of_package}
        of_package.update(waiting)
    try:
        yield
    finally:
        for name in waiting:
            del of_package[name]


_HUB_NAMES = ("HfApi", "hf_hub_download", "model_info")


def _ask_hub(name: str, *args: Any, **kwargs: Any) -> Any:
    import huggingface_hub

    return getattr(huggingface_hub, name)(*args, **kwargs)
