"""Declared values: allowed values, error messages, and values read from files."""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfmoe_dg.foundation.checked import check, from_mapping, same_as, value, values_of
from sfmoe_dg.foundation.errors import UserError


@dataclass(frozen=True)
class Inner:
    colour: str = value("red", choices=("red", "blue"), help="of what is inside")


@dataclass(frozen=True)
class Settings:
    name: str = value(shape=(str.isidentifier, "a name"))
    steps: int | None = value(None, low=1)
    share: float = value(0.5, above=0, below=1)
    percent: float = value(50, low=0, high=100)
    keep: bool = value(True)
    time: str | int = value(3, shape=(bool, "minutes or a text"))
    sets: tuple[tuple[int, ...], ...] | None = value(None)
    extra: Mapping[str, str] = value(default_factory=dict)
    inner: Inner = value(default_factory=Inner)
    unseen: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class More(Settings):
    share: float = value(0.1, above=0)
    again: int | None = same_as(Settings, "steps")


WRONG: list[tuple[str, Any, str]] = [
    ("name", "a b", "it must be a name"),
    ("name", None, "it must be a name"),
    ("steps", 0, "it must be at least 1"),
    ("steps", 1.0, "it must be a whole number of at least 1"),
    ("steps", True, "it must be a whole number of at least 1"),
    ("share", 0, "it must be above 0 and below 1"),
    ("share", 1.0, "it must be above 0 and below 1"),
    ("share", math.nan, "it must be above 0 and below 1"),
    ("share", "half", "it must be a number above 0 and below 1"),
    ("percent", 101, "it must be at least 0 and at most 100"),
    ("keep", 1, "it must be true or false"),
    ("keep", "true", "it must be true or false"),
    ("time", "", "it must be minutes or a text"),
    ("time", 1.5, "it must be minutes or a text"),
    ("sets", [0], "it must be a list"),
    ("sets", [[0.5]], "it must be a list"),
    ("extra", {"a": 1}, "it must be a table"),
    ("extra", [], "it must be a table"),
    ("inner", 3, "it must be a table"),
]


@pytest.mark.parametrize(("name", "found", "words"), WRONG)
def test_what_a_value_cannot_be(name, found, words):
    with pytest.raises(UserError) as caught:
        from_mapping(Settings, {"name": "x", name: found}, "here")
    assert str(caught.value) == f"key {name!r} in here is {found!r}; {words}"
    with pytest.raises(UserError) as caught:
        check(Settings(**{"name": "x", name: found}))
    assert str(caught.value) == f"{name} is {found!r}; {words}"
    assert caught.value.fields == (name,)


def test_what_a_value_can_be():
    values = {"name": "x", "steps": 1, "share": 0.999, "percent": 100, "keep": False, "time": "long"}
    read = from_mapping(Settings, values | {"sets": [[0], [1, 2]], "extra": {"a": "b"}}, "here")
    assert (read.steps, read.percent, read.keep, read.sets) == (1, 100, False, ((0,), (1, 2)))
    check(read)
    check(Settings(name="x", steps=None, sets=((0,),)))
    assert from_mapping(Settings, {"name": "x", "steps": None}, "here") == Settings(name="x")


def test_a_table_within_a_table_says_where_it_is():
    assert from_mapping(Settings, {"name": "x", "inner": {"colour": "blue"}}, "a.toml").inner == Inner("blue")
    with pytest.raises(UserError, match=r"key 'colour' in \[inner\] of a.toml is 'green'; allowed: red, blue"):
        from_mapping(Settings, {"name": "x", "inner": {"colour": "green"}}, "a.toml")
    with pytest.raises(UserError, match=r"unknown key 'color' in \[inner\] of a.toml: did you mean colour"):
        from_mapping(Settings, {"name": "x", "inner": {"color": "red"}}, "a.toml")


def test_keys_that_are_not_declared_or_missing():
    for key in ("stepz", "unseen"):
        with pytest.raises(UserError, match=f"unknown key '{key}' in here"):
            from_mapping(Settings, {"name": "x", key: 1}, "here")
    with pytest.raises(UserError, match="here lacks the key 'name': a name"):
        from_mapping(Settings, {}, "here")


def test_declarations_are_inherited_replaced_and_shared():
    assert list(values_of(More)) == [*values_of(Settings), "again"]
    assert (values_of(More)["share"].below, values_of(Settings)["share"].below) == (None, 1)
    assert values_of(More)["again"].low == values_of(Settings)["steps"].low == 1
    assert values_of(Settings)["name"].default is MISSING
    assert values_of(Settings)["extra"].default == {}
    assert values_of(Inner)["colour"].help == "of what is inside"


@given(found=st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers()))
def test_check_and_from_mapping_agree_and_a_value_is_right_or_is_named(found):
    for name, declared in values_of(Settings).items():
        complaint = declared.complaint(found)
        assert not complaint or complaint.startswith(("it must be ", "allowed: "))
        if complaint:
            with pytest.raises(UserError, match=name):
                from_mapping(Settings, {"name": "x", name: found}, "here")
        else:
            check(from_mapping(Settings, {"name": "x", name: found}, "here"))


@given(low=st.integers(-5, 5), high=st.integers(-5, 5), found=st.integers(-9, 9))
def test_ranges(low, high, found):
    @dataclass
    class Closed:
        x: int = value(0, low=low, high=high)

    @dataclass
    class Open:
        x: int = value(0, above=low, below=high)

    assert (not values_of(Closed)["x"].complaint(found)) == (low <= found <= high)
    assert (not values_of(Open)["x"].complaint(found)) == (low < found < high)


def test_a_command_line_shows_the_fields_that_are_its_flags():
    error = UserError("task is 'a' in data/task/x, which needs share: set share above 0", "task", "share", "gone")
    assert str(error) == "task is 'a' in data/task/x, which needs share: set share above 0"
    assert error.with_flags(()) == str(error)
    assert error.with_flags({"share": 1}) == "task is 'a' in data/task/x, which needs --share: set share above 0"
    assert error.with_flags({"task", "share"}).startswith("--task is 'a' in data/task/x, which needs --share:")
    assert UserError("see a/steps, steps.txt and multi-steps", "steps").with_flags({"steps"}).count("--") == 0
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.fields) == (str(error), error.fields)
