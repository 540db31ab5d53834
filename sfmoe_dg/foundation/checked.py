"""A value is declared once, at its field: type, default, range, choices and help.

    @dataclass(frozen=True)
    class Settings:
        steps: int | None = value(None, low=1, help="default: the data set's")
        split: str = value("random", choices=("random", "identity"), help="how domains are split")

Checks (:func:`check`), keys of files (:func:`from_mapping`), flags (``sfmoe_dg.cli.flags``) and the sentences of all of
them follow from that. Fields without :func:`value` are not for users: they have no key, no flag and no check.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.registry import unknown

T = TypeVar("T")
Shape = tuple[Callable[[Any], bool], str]
"""What a value of the right type must be besides: a test, and its meaning as the end of "it must be …"."""


def is_text(found: str) -> bool:
    """Whether a string has characters, all of them printable."""
    return found != "" and found.isprintable()


TEXT: Shape = (is_text, "a string that is not empty")

_WORDS: dict[Any, str] = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}
_KEY = "value"


def value(
    default: Any = MISSING,
    *,
    default_factory: Any = MISSING,
    help: str = "",
    choices: tuple[Any, ...] = (),
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    shape: Shape | None = None,
    metavar: str | None = None,
) -> Any:
    """The field of a dataclass that users set; its type is the field's annotation.

    Args:
        help: what it is for, as ``--help`` shows it: no sentence, no full stop.
        choices: all that it may be, if that can be listed.
        low, high: the least and the largest that it may be.
        above, below: what it must be larger and smaller than.
        shape: what it must be besides.
        metavar: what stands for a value in ``--help``.
    """
    limits = {"low": low, "high": high, "above": above, "below": below}
    said = {"help": help, "choices": choices, "shape": shape, "metavar": metavar, **limits}
    if default_factory is not MISSING:
        return dataclasses.field(default_factory=default_factory, metadata={_KEY: said})
    return dataclasses.field(default=default, metadata={_KEY: said})


def same_as(cls: Any, name: str) -> Any:
    """The declaration of another class's field, for a value that means the same here."""
    (found,) = (f for f in dataclasses.fields(cls) if f.name == name)
    return dataclasses.field(default=found.default, metadata=found.metadata)


@dataclass(frozen=True)
class Value:
    """A field that was declared with :func:`value`, which says what the attributes mean.

    ``type`` is the annotation without None; ``default`` is MISSING for a value that must be given.
    """

    name: str
    type: Any
    optional: bool
    default: Any
    help: str
    choices: tuple[Any, ...]
    low: float | None
    high: float | None
    above: float | None
    below: float | None
    shape: Shape | None
    metavar: str | None

    def complaint(self, found: Any) -> str:
        """What is wrong with a value, as the end of the sentence "steps is 0; …"; nothing if it is right."""
        if found is None and self.optional:
            return ""
        fits = _is(found, self.type)
        if self.choices:
            return "" if fits and found in self.choices else f"allowed: {', '.join(map(str, self.choices))}"
        if not fits or (self.shape is not None and not self.shape[0](found)):
            return f"it must be {self.meaning}"
        return "" if self._is_within(found) else f"it must be {self._range}"

    @property
    def meaning(self) -> str:
        """What it must be, in words."""
        if self.shape is not None:
            return self.shape[1]
        kind = _WORDS.get(self.type) or ("a table" if _is_table(self.type) else "a list")
        return f"{kind}{' of' if self._range.startswith('at') else ''} {self._range}".rstrip()

    @property
    def _range(self) -> str:
        limits = (("at least", self.low), ("above", self.above), ("at most", self.high), ("below", self.below))
        return " and ".join(f"{words} {limit}" for words, limit in limits if limit is not None)

    def _is_within(self, found: Any) -> bool:
        """NaN is within no range."""
        return (
            (self.low is None or found >= self.low)
            and (self.high is None or found <= self.high)
            and (self.above is None or found > self.above)
            and (self.below is None or found < self.below)
        )


def values_of(cls: Any) -> Mapping[str, Value]:
    """The declared values of a dataclass by name, in order; those of the classes that it derives from come first."""
    return _values_of(cls)


@cache
def _values_of(cls: Any) -> Mapping[str, Value]:
    hints, found = get_type_hints(cls), {}
    for f in dataclasses.fields(cls):
        if _KEY not in f.metadata:
            continue
        default = f.default if f.default_factory is MISSING else f.default_factory()
        kind, optional = _without_none(hints[f.name])
        found[f.name] = Value(f.name, kind, optional, default, **f.metadata[_KEY])
    return types.MappingProxyType(found)


def check(instance: Any) -> None:
    """Refuse an object one of whose declared values cannot be.

    Raises:
        UserError: naming the field, its value and what is allowed.
    """
    for name, declared in values_of(type(instance)).items():
        refuse(declared, getattr(instance, name))


def refuse(declared: Value, found: Any) -> None:
    """Refuse a value that a field cannot have.

    Raises:
        UserError: naming the field, the value and what is allowed.
    """
    if wrong := declared.complaint(found):
        raise UserError(f"{declared.name} is {found!r}; {wrong}", declared.name)


def from_mapping(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """A dataclass from the keys and values of a file, as TOML and JSON give them; every one is checked.

    A value whose type is a dataclass is read from a table of its own.

    Raises:
        UserError: naming the key, its value and what is allowed, or the nearest known keys.
    """
    known = values_of(cls)
    for name in values:
        if name not in known:
            raise unknown("key", name, known, f" in {where}")
    for name, declared in known.items():
        if name not in values and declared.default is MISSING:
            raise UserError(f"{where} lacks the key {name!r}: {declared.meaning}")
    return cls(**{name: read(known[name], found, where) for name, found in values.items()})


def read(declared: Value, found: Any, where: str) -> Any:
    """One value of a file as its field holds it: lists become tuples.

    Raises:
        UserError: naming the key, its value and what is allowed.
    """
    if _is_table(declared.type) and not get_origin(declared.type) and isinstance(found, Mapping):
        return from_mapping(declared.type, found, f"[{declared.name}] of {where}")
    if wrong := declared.complaint(found):
        raise UserError(f"key {declared.name!r} in {where} is {found!r}; {wrong}")
    return _as_tuples(found) if get_origin(declared.type) is tuple else found


def _as_tuples(found: Any) -> Any:
    return tuple(map(_as_tuples, found)) if isinstance(found, (list, tuple)) else found


def _without_none(hint: Any) -> tuple[Any, bool]:
    if get_origin(hint) not in (Union, types.UnionType):
        return hint, False
    kinds = tuple(kind for kind in get_args(hint) if kind is not types.NoneType)
    return (Union[kinds] if len(kinds) > 1 else kinds[0]), len(kinds) < len(get_args(hint))  # noqa: UP007


def _is_table(kind: Any) -> bool:
    return dataclasses.is_dataclass(kind) or get_origin(kind) in (Mapping, dict)


def _is(found: Any, kind: Any) -> bool:
    """Whether a value is of a type; lists pass for tuples, whole numbers for numbers, true and false for neither."""
    origin = get_origin(kind)
    if kind is Any:
        return True
    if origin is Union:
        return any(_is(found, one) for one in get_args(kind))
    if origin is tuple:
        return isinstance(found, (list, tuple)) and all(_is(item, get_args(kind)[0]) for item in found)
    if _is_table(kind) and origin is not None:
        names, items = get_args(kind)
        return isinstance(found, Mapping) and all(_is(k, names) and _is(v, items) for k, v in found.items())
    if kind in (int, float) and isinstance(found, bool):
        return False
    return isinstance(found, (int, float) if kind is float else kind)
