"""Registries: dicts that refuse duplicate names, and name the nearest known ones for an unknown name."""

from __future__ import annotations

import difflib
import importlib
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sfmoe_dg.foundation.errors import UserError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

T = TypeVar("T")


def nearest(name: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """The known names most like ``name`` (case does not count), best first."""
    by_folded = {candidate.casefold(): candidate for candidate in known}
    found = difflib.get_close_matches(name.casefold(), by_folded, n=limit, cutoff=0.5)
    return [by_folded[match] for match in found]


def unknown(kind: str, name: str, known: Iterable[str], where: str = "") -> UserError:
    """The error for an unknown name; it lists the nearest known names, or all of them if none is near."""
    known = list(known)
    close = nearest(name, known)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(sorted(known))}."
    return UserError(f"unknown {kind} {name!r}{where}: {hint}")


class BrokenPlugin(UserError):
    """An entry point of another package cannot be loaded, or is not of the right kind."""


def _accept(name: str, found: Any) -> str:
    return ""


def _as_it_is(name: str, found: Any) -> Any:
    return found


class Registry(MutableMapping[str, Any], Generic[T]):
    """Names to objects of one kind. A string value ``'module:attribute'`` is imported on first use.

    Args:
        kind: what an entry is, for error messages.
        group: entry points of this group that installed packages offer are entries too. They are looked up when names
            or entries are first needed, and each is imported when it is loaded.
        complaint: called with the name and the object when an entry is loaded; returns what is wrong with the object
            in a few words, or ''.
        convert: makes what :meth:`load` returns of the object.

    Raises:
        UserError: if a name is registered twice or is unknown, or if an entry is loaded whose name several packages,
            or a package and this process, give.
        BrokenPlugin: if the entry of a package cannot be loaded, or ``complaint`` finds something wrong with it.
    """

    def __init__(
        self,
        kind: str,
        group: str = "",
        complaint: Callable[[str, Any], str] = _accept,
        convert: Callable[[str, Any], T] = _as_it_is,
    ) -> None:
        self.kind, self.group, self._complaint, self._convert = kind, group, complaint, convert
        self._entries: dict[str, Any] = {}
        self._loaded: dict[str, Any] = {}
        self._offers: dict[str, list[EntryPoint]] | None = None

    def register(self, name: str, target: T | str) -> None:
        if name in self._entries:
            raise UserError(f"{self.kind} {name!r} is already registered; choose another name")
        self._entries[name] = target

    def __setitem__(self, name: str, target: Any) -> None:
        self.register(name, target)

    def __delitem__(self, name: str) -> None:
        del self._entries[name]
        self._loaded.pop(name, None)

    def __getitem__(self, name: str) -> Any:
        """The object if it has been loaded; otherwise its ``'module:attribute'`` or its entry point."""
        if name in self._loaded:
            return self._loaded[name]
        if name in self._entries:
            return self._entries[name]
        if name in self.offers:
            return self.offers[name][0]
        raise unknown(self.kind, name, self)

    def get(self, name: str, default: Any = None) -> Any:
        # Mapping.get expects a KeyError for an unknown name, not a UserError.
        known = name in self
        return self[name] if known else default

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self.offers

    def __iter__(self) -> Iterator[str]:
        return iter([*self._entries, *(name for name in self.offers if name not in self._entries)])

    def __len__(self) -> int:
        return len(self._entries.keys() | self.offers.keys())

    def load(self, name: str) -> T:
        """The object itself; imported if it was registered as ``'module:attribute'`` or is another package's."""
        if name not in self._loaded:
            self._refuse_several(name)
            target = self[name]
            if name not in self._entries:
                target = self._load_offered(target)
            elif isinstance(target, str):
                module_name, _, attribute = target.partition(":")
                target = getattr(importlib.import_module(module_name), attribute)
            if wrong := self._complaint(name, target):
                raise UserError(f"{self.kind} {name!r} is {wrong}")
            self._loaded[name] = self._convert(name, target)
        found: T = self._loaded[name]
        return found

    @property
    def registered(self) -> Mapping[str, Any]:
        """The entries registered in this process, without those of installed packages; see ``__getitem__``."""
        return {name: self._loaded.get(name, target) for name, target in self._entries.items()}

    @property
    def offers(self) -> dict[str, list[EntryPoint]]:
        """Entry points of installed packages by name. A name with several is refused when it is loaded."""
        if self._offers is None:
            self._offers = {}
            for point in _entry_points(self.group) if self.group else ():
                self._offers.setdefault(point.name, []).append(point)
        return self._offers

    def package(self, name: str) -> str:
        """The package that offers a name, and its version; '' if the name is registered in this process."""
        return "" if name in self._entries or name not in self.offers else package_of(self.offers[name][0])

    def _refuse_several(self, name: str) -> None:
        points = self.offers.get(name, [])
        is_here = name in self._entries
        if len(points) + is_here < 2:
            return
        if len(points) == 1 and not isinstance(self._entries[name], str):
            # A module that registers the object that its package offers: one object, known by two ways.
            with suppress(BrokenPlugin):
                if self._load_offered(points[0]) is self._entries[name]:
                    return
        sources = [_place(self._entries[name])] if is_here else []
        sources += [f"package {package_of(point)}" for point in points]
        raise UserError(
            f"{self.kind} {name!r} comes from {' and from '.join(sources)}; uninstall one, or have it take another name"
        )

    def _load_offered(self, point: EntryPoint) -> Any:
        offer = f"{self.kind} {point.name!r} of package {package_of(point)}"
        try:
            found = point.load()
        except Exception as error:  # third-party code may raise anything
            raise BrokenPlugin(
                f"{offer} cannot be loaded from {point.value}: {what_happened(error)}; mend or uninstall that package"
            ) from error
        if wrong := self._complaint(point.name, found):
            raise BrokenPlugin(f"{offer} is {wrong}; mend or uninstall that package")
        return found


def _place(target: Any) -> str:
    """The path or the module that a registered object comes from."""
    return target if isinstance(target, str) else f"module {getattr(target, '__module__', 'unknown')}"


def _entry_points(group: str) -> list[EntryPoint]:
    # Imported here because it is slow and few commands need it.
    from importlib.metadata import entry_points

    return sorted(entry_points(group=group), key=lambda point: (point.name, package_of(point)))


def package_of(point: EntryPoint) -> str:
    """The name and version of the package that offers an entry point."""
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "unknown"


def what_happened(error: BaseException) -> str:
    """An exception of third-party code in a few words: its type, its first line, and where it was raised."""
    message = (str(error).strip() or "no message").splitlines()[0].rstrip(".")
    machinery = ("<frozen importlib", __file__, importlib.__file__.removesuffix("__init__.py"))
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(machinery)]
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {message}{where}"


REGISTRIES: Mapping[str, str] = {
    "algorithms": "sfmoe_dg.algorithms.registry:ALGORITHMS",
    "backbones": "sfmoe_dg.models.backbones:BACKBONES",
    "datasets": "sfmoe_dg.data.catalog:CATALOG",
    "launchers": "sfmoe_dg.sweeps.launch.launcher:LAUNCHERS",
    "loggers": "sfmoe_dg.training.reporters.loggers:LOGGERS",
    "analyses": "sfmoe_dg.analysis.registry:ANALYSES",
}
"""``'module:attribute'`` of every registry, by what it holds. Importing that of the backbones imports torch."""


def open_registry(what: str) -> Registry[Any]:
    """The registry of one of :data:`REGISTRIES`."""
    module_name, _, attribute = REGISTRIES[what].partition(":")
    found: Registry[Any] = getattr(importlib.import_module(module_name), attribute)
    return found
