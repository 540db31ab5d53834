"""Hyper-parameters: what each may be, how random search draws it, and how a run's values are resolved.

Every hyper-parameter is drawn from its own ``RandomState(seed_hash(seed, name))``, so that adding one changes no other
draw (DomainBed, ``hparams_registry``). The tables stand beside the algorithms that use them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.registry import unknown
from sfmoe_dg.foundation.seeds import seed_hash

Draw = Callable[[np.random.RandomState], Any]

_SHOWN = 200
"""How many characters of invalid JSON the error message repeats."""


@dataclass(frozen=True)
class Hparam:
    """One hyper-parameter: its default, its search distribution and the values that it may have.

    A range says which values can work at all, not which are sensible.

    Args:
        default: the value without random search.
        draw: draws a value from a random state; None means that random search keeps the default.
        types: the JSON types that are allowed. By default the type of ``default``, or none if there are ``choices``.
        choices: single values that are allowed, beside those of ``types``.
        low, high: the smallest and the largest number allowed.
        above, below: bounds of the range that are not allowed themselves.
        from_seed: replaces ``draw`` where other code draws; it gets the seed of the whole table's draw.

    Examples:
        >>> from sfmoe_dg import Hparam, log10_uniform
        >>> lr = Hparam(5e-5, log10_uniform(-5, -3.5), above=0)
        >>> lr.accepts(0.1), lr.accepts(0), lr.accepts("fast")
        (True, False, False)
        >>> Hparam("default", types=(int,), choices=("default",), low=1).allowed
        "a whole number of at least 1, or 'default'"
    """

    default: Any
    draw: Draw | None = None
    types: tuple[type, ...] = ()
    choices: tuple[Any, ...] = ()
    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    from_seed: Callable[[int], Any] | None = None

    def sample(self, state: np.random.RandomState) -> Any:
        return plain(self.default if self.draw is None else self.draw(state))

    def drawn(self, seed: int, name: str) -> Any:
        """The value of hyper-parameter ``name`` in the draw with this seed."""
        if self.from_seed is not None:
            return plain(self.from_seed(seed))
        return self.sample(np.random.RandomState(seed_hash(seed, name)))

    def accepts(self, value: Any) -> bool:
        """Whether the hyper-parameter may have this value."""
        value = plain(value)
        if any(type(value) is type(choice) and value == choice for choice in self.choices):
            return True
        if isinstance(value, bool):  # which Python counts among the whole numbers
            return bool in self._types
        types = (*self._types, int) if float in self._types else self._types
        return isinstance(value, types) and (not isinstance(value, (int, float)) or self._is_in_range(value))

    @property
    def allowed(self) -> str:
        """The allowed values in words."""
        # A whole number may stand for any number.
        kinds = [kind for kind in self._types if not (kind is int and float in self._types)]
        words = " or ".join(sorted(_TYPE_NAMES.get(kind, kind.__name__) for kind in kinds))
        if int in kinds or float in kinds:
            words += self._range()
        if not self.choices:
            return words
        listed = ", ".join("null" if choice is None else repr(choice) for choice in self.choices)
        listed = listed if len(self.choices) == 1 else f"one of {listed}"
        return f"{words}, or {listed}" if words else listed

    @property
    def _types(self) -> tuple[type, ...]:
        return self.types or (() if self.choices else (type(self.default),))

    def _is_in_range(self, value: float) -> bool:
        return _is_finite(value) and self.low <= value <= self.high and self.above < value < self.below

    def _range(self) -> str:
        if math.isfinite(self.low) and math.isfinite(self.high):
            return f" between {self.low} and {self.high}"
        bounds = {"of at least": self.low, "above": self.above, "of at most": self.high, "below": self.below}
        parts = [f"{words} {bound}" for words, bound in bounds.items() if math.isfinite(bound)]
        return f" {' and '.join(parts)}" if parts else ""


def _is_finite(value: float) -> bool:
    """Whether a number fits into a float and is neither infinite nor NaN."""
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False


_TYPE_NAMES: dict[type, str] = {
    float: "a finite number",
    int: "a whole number",
    bool: "true or false",
    str: "a string",
    type(None): "null",
    list: "a list",
}


def plain(value: Any) -> Any:
    """A NumPy scalar as a Python value, since JSON cannot hold NumPy's; other values as they are."""
    return value.item() if isinstance(value, np.generic) else value


HparamTable = Mapping[str, Hparam]


def uniform(low: float, high: float) -> Draw:
    """A draw between two numbers.

    Examples:
        >>> from numpy.random import RandomState
        >>> from sfmoe_dg import uniform
        >>> uniform(0, 1)(RandomState(0))
        0.5488135039273248
    """
    return lambda r: r.uniform(low, high)


def log10_uniform(low: float, high: float) -> Draw:
    """A draw of ten to the power of a number between two.

    Examples:
        >>> from numpy.random import RandomState
        >>> from sfmoe_dg import log10_uniform
        >>> log10_uniform(-5, -3)(RandomState(0))
        0.0001252065381499946
    """
    return lambda r: 10 ** r.uniform(low, high)


def int_uniform(low: float, high: float) -> Draw:
    """A draw of a whole number: one between two, rounded down.

    Examples:
        >>> from numpy.random import RandomState
        >>> from sfmoe_dg import int_uniform
        >>> int_uniform(8, 64)(RandomState(0))
        38
    """
    return lambda r: int(r.uniform(low, high))


def int_log10_uniform(low: float, high: float) -> Draw:
    """A draw of ten to the power of a number between two, rounded down.

    Examples:
        >>> from numpy.random import RandomState
        >>> from sfmoe_dg import int_log10_uniform
        >>> int_log10_uniform(0, 4)(RandomState(0))
        156
    """
    return lambda r: int(10 ** r.uniform(low, high))


def int_log2_uniform(low: float, high: float) -> Draw:
    """A draw of two to the power of a number between two, rounded down.

    Examples:
        >>> from numpy.random import RandomState
        >>> from sfmoe_dg import int_log2_uniform
        >>> int_log2_uniform(3, 5.5)(RandomState(0))
        20
    """
    return lambda r: int(2 ** r.uniform(low, high))


def choice(*values: Any) -> Draw:
    """A draw of one of these values.

    Examples:
        >>> from numpy.random import RandomState
        >>> from sfmoe_dg import choice
        >>> float(choice(0.0, 0.1, 0.5)(RandomState(0)))
        0.0
    """
    return lambda r: r.choice(list(values))


def default_values(table: HparamTable) -> dict[str, Any]:
    """The defaults, in the table's order."""
    return {name: hparam.default for name, hparam in table.items()}


def random_values(table: HparamTable, seed: int) -> dict[str, Any]:
    """One random draw of the whole table; equal to DomainBed's for the names that both have."""
    return {name: hparam.drawn(seed, name) for name, hparam in table.items()}


def parse_overrides(text: str | None, where: str = "hparams") -> dict[str, Any]:
    """Hyper-parameters written as a JSON object; none for None.

    Raises:
        UserError: if the text is not a JSON object, or gives a name twice.

    Examples:
        >>> parse_overrides('{"lr": 1e-4, "batch_size": 32}')
        {'lr': 0.0001, 'batch_size': 32}
    """
    if text is None:
        return {}
    try:
        value = json.loads(text, object_pairs_hook=partial(_without_repeats, where))
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
        raise UserError(
            f"{where} is not valid JSON ({_reason(error)}): {shown!r}; "
            """write it like '{"lr": 1e-4, "batch_size": 32}'"""
        ) from None
    if not isinstance(value, dict):
        raise UserError(f"{where} must be a JSON object of name: value, not {value!r}")
    return value


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos}"
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    return "a number has too many digits"  # Python reads at most 4300


def _without_repeats(where: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of the JSON text. Without this check Python would silently keep the last of several values."""
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{where} gives {name!r} {names.count(name)} times; give it once")
    return dict(pairs)


def check_overrides(table: HparamTable, overrides: Mapping[str, Any], where: str) -> None:
    """Refuse unknown names, and values that a hyper-parameter may not have.

    Args:
        where: where the values were given, for the message.

    Raises:
        UserError: naming the hyper-parameter, its value and the allowed ones; for an unknown name the nearest known.
    """
    for name, value in overrides.items():
        if name not in table:
            raise unknown("hyper-parameter", name, table, f" in {where}")
        if not table[name].accepts(value):
            raise UserError(f"hyper-parameter {name!r} in {where} is {value!r}; it must be {table[name].allowed}")


def resolve(
    table: HparamTable,
    hparams_seed: int,
    trial_seed: int,
    overrides: Mapping[str, Any],
    *,
    per_trial: bool = True,
    where: str = "hparams",
) -> dict[str, Any]:
    """The hyper-parameters of one run, resolved as DomainBed's training script does.

    Args:
        hparams_seed: 0 for the defaults; otherwise the draw is seeded by ``seed_hash(hparams_seed, trial_seed)``.
        overrides: values that replace the default or drawn ones.
        per_trial: draw new values for every trial, as DomainBed does; if False, every trial has the values of trial 0,
            so that error bars show the effect of the seeds alone.
        where: where the overrides were given, for the message.

    Raises:
        UserError: if an override is unknown or not allowed.
    """
    check_overrides(table, overrides, where)
    if hparams_seed == 0:
        values = default_values(table)
    else:
        values = random_values(table, seed_hash(hparams_seed, trial_seed if per_trial else 0))
    return values | dict(overrides)
