"""Docstrings as the site wants them: an extension of griffe, which reads the code.

References (``:func:`name```) become links, and a colon stays where two of them announce an example.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:func|class|meth|data|mod|attr):`(?P<name>~?[\w.]+)`")
_EXAMPLE = re.compile(r"::(?=\n\n {4})")


class References(griffe.Extension):
    """Resolves each name where it stands: its own members first, then its class, its module, its imports."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Called once everything is loaded, so that names can be looked up across modules."""
        self._visit(pkg, pkg)

    def _visit(self, thing: griffe.Object, package: griffe.Module) -> None:
        if thing.docstring:
            text = _EXAMPLE.sub(":", thing.docstring.value)
            thing.docstring.value = _ROLE.sub(lambda role: _link(role["name"], thing, package), text)
        for member in thing.members.values():
            if not member.is_alias:
                self._visit(member, package)  # type: ignore[arg-type]


def _link(written: str, thing: griffe.Object, package: griffe.Module) -> str:
    """A Markdown reference, or only the name as code where the site shows nothing to link to."""
    name = written.removeprefix("~")
    shown = name.rpartition(".")[2] if written.startswith("~") else name
    found = _found(name.removeprefix(f"{package.name}."), package if name.startswith(f"{package.name}.") else thing)
    if found is None or not found.has_docstring or any(part.startswith("_") for part in found.path.split(".")):
        return f"`{shown}`"
    return f"[`{shown}`][{found.path}]"


def _found(name: str, thing: griffe.Object) -> griffe.Object | None:
    first, *rest = name.split(".")
    scope: griffe.Object | None = thing
    while scope is not None:
        if first in scope.all_members:
            found = scope.all_members[first]
            for part in rest:
                found = found.all_members[part]
            return found.final_target if found.is_alias else found  # type: ignore[return-value, union-attr]
        scope = scope.parent  # type: ignore[assignment]
    return None
