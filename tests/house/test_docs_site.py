"""The documentation holds together: links, anchors, navigation, API pages, the numbers of the page on reproducing."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from browser import Browser

from sfmoe_dg.analysis.compare.published_numbers import published
from sfmoe_dg.cli.main import main
from sfmoe_dg.data.catalog import CATALOG
from sfmoe_dg.foundation.registry import REGISTRIES, open_registry
from sfmoe_dg.runs.spec import RunSpec
from sfmoe_dg.sweeps.plan import plan
from sfmoe_dg.sweeps.study import read_spec

ROOT = Path(__file__).resolve().parents[2]
STUDIES = ("sweeps/sf_moe_table1.toml", "sweeps/sf_moe_table1_domainnet.toml")
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder, pattern in ((ROOT, "*.md"), (ROOT / "docs", "**/*.md"), (ROOT / "datasets", "*.md"))
    for path in folder.glob(pattern)
)

_module = importlib.util.spec_from_file_location("site_links", ROOT / "docs" / "site_links.py")
assert _module is not None
assert _module.loader is not None
links = importlib.util.module_from_spec(_module)
sys.modules["site_links"] = links
_module.loader.exec_module(links)

TEXT = """# One & two: `three`

[up](../README.md#a-b), ![picture](figures/x.png), [`code` in it](b.md) and [one [more]](#one--two-three).
[outside](https://example.org/c.md) [mail](mailto:a@b.c) `[no](link.md)`

    [no](indented.md)

```
[no](fenced.md)
# No heading
```

- a list
  [of links](c/d.md)

`code` before [a link](e.md).
"""


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def nav_entries(nav: object) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    children = nav.values() if isinstance(nav, dict) else nav
    return [entry for child in children for entry in nav_entries(child)]


def nav() -> list[str]:
    return nav_entries(yaml.safe_load(text("mkdocs.yml"))["nav"])


def table1() -> list[RunSpec]:
    return [run for study in STUDIES for run in plan(read_spec(ROOT / study), "/data")]


@pytest.fixture
def in_root(monkeypatch):
    """Studies name their plug-ins by paths from the root of the repository."""
    monkeypatch.chdir(ROOT)


def test_links_are_found_outside_of_code_only():
    found = [(link.written, link.target, link.anchor) for link in links.relative_links(TEXT, "docs/a.md")]
    assert found == [
        ("../README.md#a-b", "README.md", "a-b"),
        ("figures/x.png", "docs/figures/x.png", ""),
        ("b.md", "docs/b.md", ""),
        ("#one--two-three", "docs/a.md", "one--two-three"),
        ("c/d.md", "docs/c/d.md", ""),
        ("e.md", "docs/e.md", ""),
    ]
    assert all(TEXT[link.start : link.end] == link.written for link in links.relative_links(TEXT, "docs/a.md"))


def test_anchors_are_those_of_headings():
    assert links.anchors(TEXT) == {"one--two-three"}
    assert links.slug("Measured: CUB-DG, from scratch, for 121 steps") == "measured-cub-dg-from-scratch-for-121-steps"
    assert links.slug("Classes (`specialisation.py`)") == "classes-specialisationpy"


def test_links_lead_from_page_to_page_of_the_site(tmp_path):
    for name in ("docs/a.md", "docs/sub/b.md", "sweeps/x.toml", "README.md", "datasets/p.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("steps = 1\n", encoding="utf-8")

    def on_site(markdown: str, page: str) -> str:
        return links.rewritten(markdown, page, tmp_path)

    assert on_site("[x](../sweeps/x.toml)", "docs/a.md") == "[x](repository/sweeps/x.toml.md)"
    assert (
        on_site("[x](../../README.md#h), [a](../a.md)", "docs/sub/b.md")
        == "[x](../repository/README.md#h), [a](../a.md)"
    )
    assert on_site("[x](../datasets)", "docs/a.md") == "[x](repository/datasets/index.md)"
    assert on_site("[x](docs/sub/b.md)", "README.md") == "[x](../sub/b.md)"
    assert (
        on_site("[x](../docs/a.md) [y](../gone.md) [z](#h)", "datasets/p.md")
        == "[x](../../a.md) [y](../gone.md) [z](#h)"
    )
    assert links.page_of("sweeps/x.toml", tmp_path) == "# `sweeps/x.toml`\n\n`````toml\nsteps = 1\n`````\n"
    assert links.page_of("datasets", tmp_path) == "# `datasets/`\n\n- [p.md](datasets/p.md)\n"


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_somewhere(page):
    lost = []
    for link in links.relative_links(text(page), page):
        target = ROOT / link.target
        anchored = not link.anchor or (target.suffix == ".md" and link.anchor in links.anchors(text(link.target)))
        if not (target.exists() and target.resolve().is_relative_to(ROOT) and anchored):
            lost.append(link.written)
    assert not lost, f"{page} links to what does not exist: {', '.join(lost)}"


def test_every_page_is_in_the_navigation_once():
    entries = nav()
    assert max(Counter(entries).values()) == 1
    made = {entry.removeprefix(links.REPOSITORY) for entry in entries if entry.startswith(links.REPOSITORY)}
    pages = {page.removeprefix("docs/") for page in PAGES if page.startswith("docs/")}
    notebooks = {path.name for path in (ROOT / "docs").glob("*.ipynb")}
    assert {entry for entry in entries if not entry.startswith(links.REPOSITORY)} == pages | notebooks
    assert made == {page for page in PAGES if not page.startswith("docs/")}


def test_every_module_is_on_one_api_page():
    package = ROOT / "sfmoe_dg"
    names = {path.stem for path in package.glob("*.py")} | {path.parent.name for path in package.glob("*/__init__.py")}
    documented = Counter(
        name for page in PAGES for name in re.findall(r"^::: sfmoe_dg\.(\w+)$", text(page), re.M) if "api/" in page
    )
    assert set(documented) == names - {"__init__", "__main__", "cli"}, "add or remove a line in docs/api/"
    assert max(documented.values()) == 1
    for folder in (name for name in documented if (package / name).is_dir()):
        page = next(text(page) for page in PAGES if f"::: sfmoe_dg.{folder}\n" in text(page))
        assert f"::: sfmoe_dg.{folder}\n    options:\n      show_submodules: true\n" in page


def test_the_followed_run_names_functions_that_exist():
    rows = re.findall(r"^\| `(sfmoe_dg/[\w/]+\.py)` \| `(\w+)` \|", text("docs/one_run_followed.md"), re.M)
    assert len(rows) > 30
    missing = [
        f"{file}: {name}" for file, name in rows if not re.search(rf"^ *(?:def|class) {name}\b", text(file), re.M)
    ]
    assert not missing


def test_the_architecture_names_files_and_folders_that_exist():
    sections = re.split(r"^## (\w+)$", text("ARCHITECTURE.md"), flags=re.M)[1:]
    rooms = {name: body for name, body in zip(sections[::2], sections[1::2], strict=True) if name != "Habits"}
    assert list(rooms) == re.findall(r"^      (\w+)/ ", text("ARCHITECTURE.md"), re.M)
    assert set(rooms) == {path.parent.name for path in (ROOT / "sfmoe_dg").glob("*/__init__.py")}
    for room, body in rooms.items():
        found = {path.name for path in (ROOT / "sfmoe_dg" / room).rglob("*")}
        named = re.findall(r"`(?:[\w/]+/)?(\w+\.py|\w+(?=/`))", body)
        assert not [name for name in named if name not in found | {"datasets", "cli"}], room


WRITERS_OWN = {"NAME.py"}
"""Files that a page tells its reader to write."""


def is_there(words: list[str]) -> bool:
    """Whether ``sfmoe_dg`` and the words after it name a module, or a name in one."""
    place = ROOT / words[0]
    for number, word in enumerate(words[1:], 1):
        if (place / f"{word}.py").is_file():
            return not words[number + 1 :] or words[number + 1] in (place / f"{word}.py").read_text(encoding="utf-8")
        if not (place / word).is_dir():
            return word in (place / "__init__.py").read_text(encoding="utf-8")
        place /= word
    return True


@pytest.mark.parametrize("page", [*PAGES, "analysis/README.md", "docs/tutorial.ipynb"])
def test_every_module_and_file_that_a_page_names_exists(page):
    written = text(page).partition("\n### Changed")[0] if page == "CHANGELOG.md" else text(page)  # it names old modules
    groups = {registry.group for registry in map(open_registry, REGISTRIES)}
    modules = set(re.findall(r"\bsfmoe_dg(?:\.\w+)+", written)) - groups
    files = set(
        re.findall(r"\b(?:sfmoe_dg|docs|tests|bench|analysis|sweeps|datasets)/[\w/]+\.(?:py|md|toml)\b", written)
    )
    lost = [module for module in modules if not is_there(module.split("."))]
    known = [ROOT, ROOT / "sfmoe_dg"]
    lost += [
        file
        for file in files
        if Path(file).name not in WRITERS_OWN and not any((base / file).is_file() for base in known)
    ]
    assert not lost, f"{page} names what does not exist"


def rows_of(page: str, first_column: str) -> list[list[str]]:
    """The cells of the table whose head begins with these words."""
    block = re.search(rf"^\| {re.escape(first_column)} \|.*?(?=\n[^|]|\Z)", text(page), re.M | re.S)
    assert block is not None
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in block[0].strip().split("\n")]


def test_the_published_table_is_the_packages():
    head, _, *rows = rows_of("docs/reproducing.md", "as published, %")
    numbers = published(selection="training-domain validation set", sources=["SF-MoE", "GMoE"])
    numbers = numbers[numbers["domain"] == ""]
    assert len(rows) == 11
    for method, version, *cells in rows:
        of_row = numbers[(numbers["method"] == method) & numbers["version"].str.endswith(version)]
        by_dataset = of_row.set_index("dataset")
        expected = [f"{by_dataset.accuracy[name]:.1f} ± {by_dataset.stderr[name]:.1f}" for name in head[2:-1]]
        assert cells[:-1] == expected
        algorithm = by_dataset["algorithm"].iloc[0]
        assert cells[-1] == f"`{algorithm}`" or (algorithm == "" and cells[-1] in ("`ViT_S16`", "`HybridViT`"))


def test_the_costs_of_table_1_are_those_of_the_plan(in_root):
    _, _, *rows = rows_of("docs/reproducing.md", "data set")
    runs = table1()
    assert len(runs) == 288 + 108
    for dataset, *cells in rows:
        own, known = [run for run in runs if run.dataset == dataset], CATALOG.load(dataset)
        steps, frequency = own[0].steps or known.steps, own[0].checkpoint_freq or known.checkpoint_freq
        evaluations = len([step for step in range(steps) if step % frequency == 0 or step == steps - 1])
        images, batch = sum(known.counts), 32 * (len(known.domains) - 1)
        expected = [len(own), images, steps, batch, evaluations, steps * batch, evaluations * images]
        assert [int(cell.replace(",", "")) for cell in cells] == expected


def test_table_1_trains_with_the_published_settings(in_root):
    from sfmoe_dg.algorithms.registry import ALGORITHMS

    table1()  # loads the plug-in
    june = {"PACS": (3e-5, 0), "VLCS": (1e-5, 1e-6), "OfficeHome": (3e-5, 1e-6), "TerraIncognita": (3e-5, 1e-4)}
    for dataset, setting in (june | {"DomainNet": (3e-5, 0)}).items():
        for name in ("SFMoE", "ViT_S16", "HybridSFMoE", "HybridViT"):
            table = ALGORITHMS.load(name).hparam_table(dataset)
            assert (table["lr"].default, table["weight_decay"].default) == setting
            assert table["batch_size"].default == 32
    backbones = [ALGORITHMS.load(name).hparam_table("PACS")["backbone"].default for name in ("ViT_S16", "HybridViT")]
    assert backbones == ["deit_small_patch16_224", "vit_small_r26_s32_224"]
    assert {run.hparams_seed for run in table1()} == {0}
    assert {run.trial_seed for run in table1()} == {0, 1, 2}


@pytest.mark.parametrize(("study", "runs"), [(STUDIES[0], 288), (STUDIES[1], 108)])
def test_table_1_plans_with_the_command_of_the_page(study, runs, in_root, tmp_path, capsys):
    for name in read_spec(study).datasets:
        (tmp_path / CATALOG.load(name).folder).mkdir()
    out = tmp_path / "out"
    assert main(["sweep", study, "--data_dir", str(tmp_path), "--output_dir", str(out), "--dry_run"]) == 0
    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == len({line[line.index("--output_dir") + 1] for line in lines}) == runs
    assert not out.exists()


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The folder of the built site; a warning of the build fails."""
    for module in ("mkdocs", "material", "mkdocstrings_handlers"):
        pytest.importorskip(module)
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.mark.slow
def test_the_site_fetches_nothing(site):
    pages = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    assert len(pages) > len(nav())
    for path, page in pages.items():
        assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"https?:", page), path
        if path.parent.name == "api":  # elsewhere code is shown as it is
            assert not re.findall(r":(?:func|class|meth|data|mod|attr):`", page), path
    shown = site / "repository" / "sweeps" / "quickstart.toml.html"
    assert "StyledDigits" in pages[shown]
    assert 'href="repository/sweeps/quickstart.toml.html"' in pages[site / "getting_started.html"]


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize(("query", "page"), [("preempted", "cluster.html"), ("build_backbone", "api/models.html")])
def test_the_search_finds_what_is_typed(site, query, page, tmp_path):
    with served(site) as address, closing(Browser(tmp_path)) as browser:
        browser.open(f"{address}/index.html")
        browser.js("document.querySelector('.md-search__input').focus()")
        browser.call("Input.insertText", text=query)
        browser.wait("document.querySelectorAll('.md-search-result__link').length")
        found = browser.js("[...document.querySelectorAll('.md-search-result__link')].map(link => link.href)")
        assert any(link.startswith(f"{address}/{page}") for link in found), found
        assert not browser.errors
        assert all(url.startswith((address, "data:", "blob:", "about:")) for url in browser.requests)


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_the_home_page_fits_the_window(site, width, tmp_path):
    with closing(Browser(tmp_path)) as browser:
        browser.open(site / "index.html", width=width)
        assert browser.js("document.documentElement.scrollWidth") <= width
        assert browser.js("document.querySelector('.wide img').naturalWidth") > 0
        if width == 1280:
            assert browser.js("[...document.querySelectorAll('pre > code')].every(e => e.scrollWidth <= e.clientWidth)")


class Silent(SimpleHTTPRequestHandler):
    """Serves files without logging requests."""

    def log_message(self, *words: object) -> None: ...


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve the folder on this machine, which the search needs; yields the address."""
    handler = partial(Silent, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
