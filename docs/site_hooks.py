"""What `mkdocs build` calls: files of the repository that pages link to become pages (``site_links.py`` says how)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page
from site_links import REPOSITORY, page_of, place_on_site, relative_links, rewritten, slug

_SHOWN: dict[str, str] = {}
"""The file of the repository that each made page shows, by the page's place on the site."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Anchors are made by the function that the tests look them up with."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = slug
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for every file outside of ``docs/`` that the navigation or a page names, and so on from there."""
    root = _root(config)
    _SHOWN.clear()
    waiting = [name.removeprefix(REPOSITORY) for name in _nav_entries(config.nav) if name.startswith(REPOSITORY)]
    for page in list(files.documentation_pages()):
        waiting += _targets(page.content_string, f"docs/{page.src_uri}")
    while waiting:
        target = waiting.pop()
        place = place_on_site(target, root)
        if target.startswith(("docs/", "../")) or place in _SHOWN or not (root / target).exists():
            continue
        _SHOWN[place] = target
        content = page_of(target, root)
        files.append(File.generated(config, place, content=content, inclusion=InclusionLevel.NOT_IN_NAV))
        waiting += _targets(content, target)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links between files of the repository become links between pages of the site."""
    place = page.file.src_uri
    return rewritten(markdown, _SHOWN.get(place, f"docs/{place}"), _root(config))


def _root(config: MkDocsConfig) -> Path:
    return Path(config.config_file_path).resolve().parent


def _targets(markdown: str, page: str) -> list[str]:
    return [link.target for link in relative_links(markdown, page)]


def _nav_entries(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    elif nav:
        for entry in nav.values() if isinstance(nav, dict) else nav:
            yield from _nav_entries(entry)
