"""Hyper-parameters: a default and a search range beside the class that uses them, drawn by name.

Each one draws from its own ``RandomState(seed_hash(seed, name))``, so adding one never moves another
(DomainBed, ``hparams_registry``). The tables live with the algorithms; this file knows only how to draw,
merge and check.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.registry import unknown
from sfmoe_dg.foundation.seeds import seed_hash

Draw = Callable[[np.random.RandomState], Any]

_SHOWN = 200
"""Characters of a broken override that are repeated to the user."""

SMALL_IMAGES = ("Debug28", "RotatedMNIST", "ColoredMNIST")
"""The data sets for which DomainBed uses other learning rates and batch sizes."""


@dataclass(frozen=True)
class Hparam:
    """A default value and how random search draws one (``None``: random search keeps the default).

    ``types`` are the JSON types an override may have; left empty, the type of the default decides.
    ``choices`` restricts overrides to a closed set. ``from_seed`` replaces ``draw`` where the drawing is done by other
    code, which is given the seed of the whole draw.

    Examples:
        >>> from sfmoe_dg import Hparam, log10_uniform
        >>> penalty_weight = Hparam(1.0, log10_uniform(-1, 1))
        >>> 0.1 <= penalty_weight.drawn(seed=7, name="penalty_weight") <= 10
        True
    """

    default: Any
    draw: Draw | None = None
    types: tuple[type, ...] = ()
    choices: tuple[Any, ...] = ()
    from_seed: Callable[[int], Any] | None = None

    def sample(self, state: np.random.RandomState) -> Any:
        return plain(self.default if self.draw is None else self.draw(state))

    def drawn(self, seed: int, name: str) -> Any:
        """The value of hyper-parameter ``name`` in the draw with this seed."""
        if self.from_seed is not None:
            return plain(self.from_seed(seed))
        return self.sample(np.random.RandomState(seed_hash(seed, name)))


def plain(value: Any) -> Any:
    """The Python number behind one of NumPy's, which JSON does not take."""
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


def parse_overrides(text: str | None, where: str = "--hparams") -> dict[str, Any]:
    """The JSON object given on the command line.

    Raises:
        UserError: if it is not a JSON object, or names something twice.
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
    return "a number has too many digits"  # what Python reads ends at 4300


def _without_repeats(where: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of the JSON; Python would take the last of several values and say nothing."""
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{where} gives {name!r} {names.count(name)} times; give it once")
    return dict(pairs)


def check_overrides(table: HparamTable, overrides: Mapping[str, Any], where: str) -> None:
    """Refuse unknown names, wrong types, values outside a closed set, and numbers that are not finite."""
    for name, value in overrides.items():
        if name not in table:
            raise unknown("hyper-parameter", name, table, f" in {where}")
        hparam = table[name]
        _check_type(name, hparam, value, where)
        if hparam.choices and value not in hparam.choices:
            allowed = ", ".join(repr(c) for c in hparam.choices)
            raise UserError(f"hyper-parameter {name!r} in {where} is {value!r}; allowed: {allowed}")


def _check_type(name: str, hparam: Hparam, value: Any, where: str) -> None:
    allowed = hparam.types or (type(hparam.default),)
    if float in allowed:
        allowed = (*allowed, int)
    if isinstance(value, bool) and bool not in allowed:
        ok = False
    else:
        ok = isinstance(value, allowed) or (value is None and type(None) in allowed)
    if not ok:
        named = [t for t in allowed if not (t is int and float in allowed)]
        names = " or ".join(sorted({_TYPE_NAMES.get(t, t.__name__) for t in named}))
        raise UserError(f"hyper-parameter {name!r} in {where} is {value!r}; it must be {names}")
    if isinstance(value, (int, float)) and not _is_finite(value):
        raise UserError(f"hyper-parameter {name!r} in {where} is {value!r}; it must be a finite number")


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False


_TYPE_NAMES: dict[type, str] = {
    float: "a number",
    int: "a whole number",
    bool: "true or false",
    str: "a string",
    type(None): "null",
    list: "a list",
}


def resolve(
    table: HparamTable,
    hparams_seed: int,
    trial_seed: int,
    overrides: Mapping[str, Any],
    *,
    per_trial: bool = True,
    where: str = "--hparams",
) -> dict[str, Any]:
    """The hyper-parameters of one run, as DomainBed's train script resolves them.

    ``hparams_seed`` 0 means the defaults. Otherwise the draw is seeded by ``seed_hash(hparams_seed, trial_seed)``:
    upstream gives every trial another configuration under the same ``hparams_seed``; ``per_trial=False`` gives
    all trials that of trial 0, so that error bars show seeds alone.
    """
    check_overrides(table, overrides, where)
    if hparams_seed == 0:
        values = default_values(table)
    else:
        values = random_values(table, seed_hash(hparams_seed, trial_seed if per_trial else 0))
    return values | dict(overrides)


def require_positive(values: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    """Refuse hyper-parameters that must be above zero and are not."""
    for name in names:
        if not values[name] > 0:
            raise UserError(f"hyper-parameter {name!r} in {where} is {values[name]!r}; it must be above 0")


def require_within(values: Mapping[str, Any], name: str, low: float, high: float, where: str) -> None:
    """Refuse a hyper-parameter that is no number between these two, both included."""
    value = values[name]
    if isinstance(value, str) or not low <= value <= high:
        raise UserError(f"hyper-parameter {name!r} in {where} is {value!r}; it must lie between {low} and {high}")
