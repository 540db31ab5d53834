"""An ArgumentParser that raises UserError, in one sentence, instead of printing its usage and exiting."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.registry import nearest, unknown

_TAKES_THE_REST = (argparse.PARSER, argparse.REMAINDER)


class ArgumentParser(argparse.ArgumentParser):
    """An argparse parser whose errors are :class:`UserError`.

    The message of an unknown flag or choice names the nearest known ones. Flags cannot be abbreviated.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})
        self.register("type", int, _whole_number)
        self.register("type", float, _number)

    def error(self, message: str) -> NoReturn:
        said = message.removeprefix("argument ").replace(": is ", " is ", 1)
        said = said.replace("the following arguments are required:", f"{self.prog} lacks")
        raise UserError(f"{said}; see {self.prog} --help")

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:  # type: ignore[override]
        """As in argparse, but unknown words are refused: the list returned is always empty.

        ``parse_args`` and sub-commands call this method.
        """
        words = sys.argv[1:] if args is None else list(args)
        if not any(action.nargs in _TAKES_THE_REST for action in self._actions):
            # argparse would say that a required flag is missing where it is only misspelt, so look first.
            self._refuse_unknown_flags(words)
        found, left = super().parse_known_args(words, namespace)
        if left:
            self._refuse_unknown_flags(left)
            self.error(f"{self.prog} has no use for {left[0]!r}")
        for action in self._actions:
            value = getattr(found, action.dest, None)
            if action.option_strings and (value == "" or (isinstance(value, list) and "" in value)):
                # Mostly an unset shell variable; as the name of a folder it would mean the working directory.
                self.error(f"{action.option_strings[-1]} is empty; it must not be")
        return found, []

    def _refuse_unknown_flags(self, words: Sequence[str]) -> None:
        for word in words:
            name = word.partition("=")[0]
            if word == "--":
                return
            if name.startswith("--") and " " not in name and name not in self._option_string_actions:
                raise unknown("flag", name, self._option_string_actions, f" of {self.prog}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        allowed = [str(choice) for choice in action.choices]
        close = "".join(f" (nearest: {name})" for name in nearest(str(value), allowed, limit=1))
        raise argparse.ArgumentError(action, f"is {value!r}{close}; allowed: {', '.join(allowed)}")


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"is {text!r}; it must be a whole number") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"is {text!r}; it must be a number") from None
