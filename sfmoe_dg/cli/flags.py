"""Make flags from declared values (``foundation.checked``), objects from flags, and flags from objects."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeVar, Union, get_args, get_origin

from sfmoe_dg.foundation.checked import Value, values_of
from sfmoe_dg.runs.spec import Options, RunSpec

T = TypeVar("T")


def add_flags(group: argparse._ActionsContainer, values: Iterable[Value], *, unset: bool = False) -> None:
    """Add a flag for each of these values. With ``unset``, a flag that is not given is None instead of the default."""
    for value in values:
        group.add_argument(f"--{value.name}", **_settings(value, unset))


def _settings(value: Value, unset: bool) -> dict[str, Any]:
    """The keyword arguments of ``add_argument`` for one value."""
    default = None if unset else value.default
    shown = "" if unset or value.default in (None, False, ()) else f" (default: {_word(value.default)})"
    settings: dict[str, Any] = {"default": default, "help": (value.help + shown).replace("%", "%%")}
    if value.type is bool and not value.default:
        return settings | {"action": "store_true"}
    if value.type is bool:
        return settings | {"choices": ("true", "false"), "default": None if unset else _word(value.default)}
    if value.choices:
        return settings | {"choices": value.choices}
    if value.type in (int, float):
        settings["type"] = value.type
    elif get_origin(value.type) is Union:
        settings["type"] = _number_or_text
    elif get_origin(value.type) is tuple:
        (kind, _) = get_args(value.type)
        settings |= {"nargs": "+", "type": kind, "default": None if unset else list(value.default)}
    return settings | {"metavar": value.metavar or ("N" if settings.get("type") in (int, float) else None)}


def _number_or_text(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def from_flags(cls: type[T], args: argparse.Namespace, **others: Any) -> T:
    """An instance of a dataclass, with its declared values taken from the flags and the fields ``others`` as given."""
    given = {
        name: from_flag(value, getattr(args, name)) for name, value in values_of(cls).items() if name not in others
    }
    return cls(**given, **others)


def from_flag(value: Value, given: Any) -> Any:
    """The value that argparse parsed for a flag, converted to the type of the field."""
    if isinstance(given, list):
        return tuple(given)
    return given == "true" if value.type is bool and isinstance(given, str) else given


def to_flags(instance: Any, values: Mapping[str, Value], always: Collection[str] = ()) -> list[str]:
    """The command-line words for the values of an object that differ from their defaults or are in ``always``."""
    words: list[str] = []
    for name, value in values.items():
        given = getattr(instance, name)
        if given == value.default and name not in always:
            continue
        words.append(f"--{name}")
        if isinstance(given, tuple):
            words += map(str, given)
        elif given is not True:
            words.append(_word(given))
    return words


def run_from_flags(args: argparse.Namespace) -> RunSpec:
    """The run that the flags of ``sfmoe-dg train`` describe."""
    return from_flags(RunSpec, args, options=from_flags(Options, args))


def run_flags(run: RunSpec) -> list[str]:
    """The words after ``sfmoe-dg train`` that describe the run, without ``--output_dir``."""
    words = to_flags(run, values_of(RunSpec), always=("dataset", "algorithm", "test_envs"))
    return words + to_flags(run.options, values_of(Options))


def _word(given: Any) -> str:
    if isinstance(given, tuple):
        return " ".join(map(str, given))
    return str(given).lower() if isinstance(given, bool) else str(given)
