"""The exception whose message is written for users."""

from __future__ import annotations

import re
from collections.abc import Container


class UserError(ValueError):
    """Bad input, said in one sentence: what is wrong, where, what is allowed, what to do.

    The sentence calls what the user can set by the name of its field (``steps is 0``); ``fields`` are the names that
    it uses so. The command line shows the first mention of each as a flag (``--steps is 0``), prints no traceback and
    exits with code 2.

    Examples:
        >>> from sfmoe_dg import CATALOG, UserError
        >>> try:
        ...     CATALOG.load("OfficeHomes")
        ... except UserError as error:
        ...     print(error)
        unknown data set 'OfficeHomes': did you mean OfficeHome?
    """

    def __init__(self, message: str = "", *fields: str) -> None:
        super().__init__(message, *fields)
        self.fields = fields

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""

    def with_flags(self, known: Container[str]) -> str:
        """The sentence for a command whose flags have the names ``known``; other fields stay as they are."""
        sentence = str(self)
        for name in self.fields:
            if name in known:
                # A whole word that is no part of a path.
                sentence = re.sub(rf"(?<![\w/.-]){name}(?![\w/-]|\.\w)", f"--{name}", sentence, count=1)
        return sentence
