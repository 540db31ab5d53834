"""A registry is a dict that refuses: duplicates raise, unknown names list the nearest known ones."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

from sfmoe_dg.errors import UserError

T = TypeVar("T")


def nearest(name: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """The known names most like ``name`` (case does not count), best first."""
    by_folded = {candidate.casefold(): candidate for candidate in known}
    found = difflib.get_close_matches(name.casefold(), by_folded, n=limit, cutoff=0.5)
    return [by_folded[match] for match in found]


def unknown(kind: str, name: str, known: Iterable[str], where: str = "") -> UserError:
    """The sentence for a name that does not exist: the nearest known ones, or all of them."""
    known = list(known)
    close = nearest(name, known)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(sorted(known))}."
    return UserError(f"unknown {kind} {name!r}{where}: {hint}")


class Registry(dict[str, Any], Generic[T]):
    """Names to objects of one kind. A string value ``'module:attribute'`` is imported on first use.

    Raises:
        UserError: on a name that is registered twice, or looked up and unknown.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def register(self, name: str, target: T | str) -> None:
        if name in self:
            raise UserError(f"{self.kind} {name!r} is already registered; choose another name")
        super().__setitem__(name, target)

    def __setitem__(self, name: str, target: Any) -> None:
        self.register(name, target)

    def __missing__(self, name: str) -> Any:
        raise unknown(self.kind, name, self)

    def load(self, name: str) -> T:
        """The registered object itself, imported if it was registered by its path."""
        target = self[name]
        if isinstance(target, str):
            module_name, _, attribute = target.partition(":")
            target = getattr(importlib.import_module(module_name), attribute)
            super().__setitem__(name, target)
        return target
