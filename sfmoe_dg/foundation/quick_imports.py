"""Importing what a command needs of torch, torchvision and timm, for a third of what it costs by itself."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any


@contextmanager
def quick_imports(*, compiling: bool = False, logging_to: tuple[str, ...] = ()) -> Iterator[None]:
    """For the length of a ``with`` block that imports: leave out what nobody uses, and collect no garbage.

    Imports make hundreds of thousands of objects that stay, and every few hundred of them the collector would look
    through all of them again. Besides:

    - the compiler waits until it is asked for (:mod:`sfmoe_dg.foundation.deferred_compiler`), but if ``compiling``;
    - timm does not find Weights & Biases, which it imports wherever it is installed; whoever imports it after the block
      does. With ``"wandb"`` in ``logging_to`` it is not hidden;
    - the Hugging Face Hub's client, which reads a library for HTTP, waits until timm downloads something.

    What a process imports together with torch, the collector leaves aside for good.
    """
    from sfmoe_dg.foundation.deferred_compiler import defer_compiler

    if not compiling:
        defer_compiler()
    hidden = "wandb" not in logging_to and "wandb" not in sys.modules
    if hidden:
        sys.modules["wandb"] = None  # type: ignore[assignment]  # how importlib is told that there is none
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
    """What timm takes from the client by name is a stand-in, for the length of the block, that asks it when called."""
    waiting: dict[str, Any] = {}
    with suppress(ImportError):
        import huggingface_hub

        of_package = vars(huggingface_hub)  # its own names are looked up when they are first asked for
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
