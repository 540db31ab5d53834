"""Read the code blocks of the documentation: commands, files, and their positions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHELL = "shell"
_LANGUAGES = {"console": SHELL, "bash": SHELL, "sh": SHELL, "python": "python", "toml": "toml"}
_FENCE = re.compile(r'^```(?P<language>\w*)(?: title="(?P<title>[^"]+)")?\s*$')
_NAMED = re.compile(r"`([\w-]+\.(?:py|toml))`")


@dataclass(frozen=True)
class Block:
    """One code block: ``language`` is "shell", "python", "toml" or what else is written behind the fence.

    ``title`` is the file's name: the fence's, or that of the last file with this ending which the paragraph before
    names. ``line`` is where its text begins in ``page``, counted from 1.
    """

    page: str
    line: int
    language: str
    title: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One line of a shell block, continuation lines joined, the prompt taken off."""

    page: str
    line: int
    text: str

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """Every page that may hold commands, relative to the repository."""
    places = ((ROOT, "README.md"), (ROOT, "CONTRIBUTING.md"), (ROOT / "docs", "**/*.md"), (ROOT / "datasets", "*.md"))
    return sorted(path.relative_to(ROOT).as_posix() for folder, pattern in places for path in folder.glob(pattern))


def blocks(markdown: str, page: str) -> Iterator[Block]:
    """The fenced blocks, and the blocks indented by four spaces after a blank line, which are shell."""
    lines = markdown.split("\n")
    number, paragraph = 0, ""
    while number < len(lines):
        fence = _FENCE.match(lines[number])
        if fence:
            end = lines.index("```", number + 1)
            text = "\n".join(lines[number + 1 : end]) + "\n"
            language = _LANGUAGES.get(fence["language"], fence["language"])
            yield Block(page, number + 2, language, fence["title"] or _name(paragraph, language), text)
            number = end + 1
        elif lines[number].startswith("    ") and (number == 0 or not lines[number - 1].strip()):
            end = number
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            text = "\n".join(line[4:] for line in lines[number:end]).rstrip() + "\n"
            yield Block(page, number + 1, SHELL, "", text)
            number = end
        else:
            paragraph = f"{paragraph}\n{lines[number]}" if lines[number].strip() else paragraph + "\n"
            if lines[number].startswith("#"):
                paragraph = ""
            number += 1


def _name(paragraph: str, language: str) -> str:
    """The file that the last paragraph names for its block, "" if none."""
    ending = {"python": ".py", "toml": ".toml"}.get(language, "\n")
    named = _NAMED.findall(paragraph.rstrip().rpartition("\n\n")[2])
    return next((name for name in reversed(named) if name.endswith(ending)), "")


def commands(block: Block) -> Iterator[Command]:
    """The commands of a shell block."""
    joined, first = "", block.line
    for offset, line in enumerate(block.text.split("\n")):
        if not joined:
            first = block.line + offset
        joined += line.removeprefix("$ ")
        if joined.endswith("\\"):
            joined = joined[:-1]
            continue
        if joined.strip() and not joined.startswith("#"):
            yield Command(block.page, first, joined)
        joined = ""
