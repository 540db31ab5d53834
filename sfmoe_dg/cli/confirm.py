"""Ask before an action that is expensive or cannot be undone."""

from __future__ import annotations

import sys

from sfmoe_dg.foundation.errors import UserError


def confirm(what: str, yes: bool) -> bool:
    """Ask whether to go on. ``what`` is a sentence without its full stop; with ``yes`` (--yes) nothing is asked.

    Raises:
        UserError: if there is no terminal to ask on.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise UserError(f"{what}; nobody can be asked here, so say --yes to go on")
    # On standard error, since standard output may be a file.
    print(f"{what}. Go on? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().casefold() in ("y", "yes")
