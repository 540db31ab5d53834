"""Asking before something that is expensive or hard to take back."""

from __future__ import annotations

import sys

from sfmoe_dg.foundation.errors import UserError


def confirm(what: str, yes: bool) -> bool:
    """Whether the user agrees to ``what``, a sentence without its full stop; ``yes`` is --yes, an answer beforehand.

    Raises:
        UserError: where there is no terminal to ask on.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise UserError(f"{what}; nobody can be asked here, so say --yes to go on")
    # To standard error: standard output may be a file.
    print(f"{what}. Go on? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().casefold() in ("y", "yes")
