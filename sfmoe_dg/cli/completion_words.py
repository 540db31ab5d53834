"""The words that may follow on a command line, read from its parsers. The scripts of all shells use them."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sfmoe_dg.foundation.registry import open_registry

NAMES = {"algorithm": "algorithms", "dataset": "datasets", "launcher": "launchers", "log": "loggers"}
"""Flags that take the names of a registry."""
DEVICES = ("auto", "cpu", "cuda", "mps")
FOLDERS = ("data_dir", "output_dir", "input_dir", "cache_dir", "checkout", "target")
FILES = ("plugin", "spec", "prefix", "out")


@dataclass(frozen=True)
class Slot:
    """The completions of one position: a list of words, or paths of the kind "files" or "folders", or none."""

    words: tuple[str, ...] = ()
    paths: str = ""

    def __or__(self, other: Slot) -> Slot:
        return Slot(self.words + other.words, self.paths or other.paths)


@dataclass(frozen=True)
class Flag:
    """A flag. ``slot`` holds the completions of its value and is None without a value; ``many``: it takes several."""

    names: tuple[str, ...]
    help: str
    slot: Slot | None
    many: bool = False


@dataclass(frozen=True)
class Command:
    name: str
    help: str
    flags: tuple[Flag, ...]
    slot: Slot
    """The completions of its positional arguments."""


def commands(parser: argparse.ArgumentParser) -> list[Command]:
    """The sub-commands of a parser."""
    result: list[Command] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            summaries = {choice.dest: choice.help or "" for choice in action._choices_actions}
            result += [_command(name, summaries[name], sub._actions) for name, sub in action.choices.items()]
    return result


def _command(name: str, summary: str, actions: Iterable[argparse.Action]) -> Command:
    flags, slot = [], Slot()
    for action in actions:
        if action.option_strings:
            takes_none = action.nargs == 0
            many = action.nargs in ("+", "*")
            flags.append(Flag(tuple(action.option_strings), _help(action), None if takes_none else _slot(action), many))
        else:
            slot |= _slot(action)
    return Command(name, summary, tuple(flags), slot)


def _help(action: argparse.Action) -> str:
    """The help as ``--help`` prints it, without line breaks."""
    values: dict[str, Any] = vars(action)
    return " ".join((action.help or "").split()) % values


def _slot(action: argparse.Action) -> Slot:
    if action.choices is not None:
        return Slot(tuple(map(str, action.choices)))
    if action.dest in NAMES:
        return Slot(tuple(open_registry(NAMES[action.dest])))
    if action.dest == "what":
        return Slot((*open_registry("analyses"), "all"))
    if action.dest == "device":
        return Slot(DEVICES)
    if action.dest in FOLDERS:
        return Slot(paths="folders")
    return Slot(paths="files" if action.dest in FILES else "")
