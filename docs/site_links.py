"""Relative links between the repository's files, and where they lead on the site. Needs nothing but Python.

Pages link to each other and to any other file of the repository by relative paths, as code hosts understand them. The
site has the pages of ``docs/`` at its root and every other file that a page links to under ``repository/``: Markdown
as a page, any other text as a page that shows it, a folder as a page that lists it.

Paths are POSIX paths relative to the repository's root (``docs/sweeps.md``, ``sweeps/pacs.toml``).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

REPOSITORY = "repository/"
"""The folder of the site that holds what lies outside ``docs/``."""

_LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\((?P<link>[^()\s]+)\)")
_CODE = re.compile(
    r"^(?P<fence>```+|~~~+).*?^(?P=fence)[ \t]*$|(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`)", re.M | re.S
)
_INDENTED = re.compile(r"(?:\A|(?<=\n\n))(?:(?: {4}|\t)[^\n]*\n?|\n(?= {4}|\t))+")
_HEADING = re.compile(r"^#{1,6} +(?P<title>.+?) *#*$", re.M)
_LANGUAGES = {".py": "python", ".toml": "toml", ".sh": "bash", ".js": "javascript", ".css": "css"}


class Link(NamedTuple):
    """A relative link: what it says, where in the text, the file it means and the anchor in it ("" for none)."""

    written: str
    start: int
    end: int
    target: str
    anchor: str


def relative_links(markdown: str, page: str) -> Iterator[Link]:
    """The links of a page to files of the repository, pictures included; what is code is no link."""
    for found in _LINK.finditer(_without_code(markdown)):
        written = found["link"]
        if re.match(r"[a-z][a-z0-9+.-]*:|/", written):
            continue
        path, _, anchor = written.partition("#")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) if path else page
        yield Link(written, found.start("link"), found.end("link"), target, anchor)


def slug(title: str, separator: str = "-") -> str:
    """The anchor of a heading, the same on code hosts and on the site."""
    kept = re.sub(r"[^\w\- ]", "", title.strip().lower())
    return kept.replace(" ", separator)


def anchors(markdown: str) -> set[str]:
    """The anchors of a page's headings; of headings with the same title, only the first counts."""
    text = _CODE.sub(lambda code: "" if code["fence"] else code[0], markdown)
    return {slug(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading["title"])) for heading in _HEADING.finditer(text)}


def place_on_site(target: str, root: Path) -> str:
    """The site's file, relative to ``docs/``, that shows a file or folder of the repository."""
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    if (root / target).is_dir():
        return f"{REPOSITORY}{target}/index.md"
    return REPOSITORY + (target if target.endswith(".md") else f"{target}.md")


def page_of(target: str, root: Path) -> str:
    """Markdown that shows a file or folder outside of ``docs/``."""
    path = root / target
    if path.is_dir():
        names = sorted(child.name for child in path.iterdir() if child.is_file())
        return f"# `{target}/`\n\n" + "".join(f"- [{name}]({posixpath.basename(target)}/{name})\n" for name in names)
    text = path.read_text(encoding="utf-8")
    if target.endswith(".md"):
        return text
    language = _LANGUAGES.get(path.suffix, "text")
    return f"# `{target}`\n\n`````{language}\n{text}`````\n"


def rewritten(markdown: str, page: str, root: Path) -> str:
    """The page with links that hold on the site; one that leads nowhere stays, for the strict build to refuse."""
    here = posixpath.dirname(place_on_site(page, root))
    pieces, position = [], 0
    for link in relative_links(markdown, page):
        if not (root / link.target).exists() or link.written.startswith("#"):
            continue
        place = posixpath.relpath(place_on_site(link.target, root), here or ".")
        pieces += [markdown[position : link.start], place, f"#{link.anchor}" if link.anchor else ""]
        position = link.end
    return "".join(pieces) + markdown[position:]


def _without_code(markdown: str) -> str:
    """The text with code replaced by as many letters: spaces at the start of a line would look like indented code."""

    def blank(found: re.Match[str]) -> str:
        return re.sub(r"[^\n]", "x", found[0])

    return _INDENTED.sub(blank, _CODE.sub(blank, markdown))
