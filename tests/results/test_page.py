"""The HTML page: whole, escaped, self-contained; and its charts' geometry by hand."""

import re
import subprocess
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from record_makers import make_record

from sfmoe_dg.results.page.page import render_page
from sfmoe_dg.results.page.svg import BLUE_CIRCLES, ORANGE_SQUARES, Axis, Point, Series, limits, line_chart
from sfmoe_dg.results.read import LoadedRecords

EVIL = "<script>alert(1)</script>"


def example(algorithm="ERM", **changes):
    return [
        make_record(step, [(0.5, 0.5), (0.25, 0.75), (0.5, 0.5)], algorithm=algorithm, test_envs=[env], **changes)
        for env in range(3)
        for step in (0, 300)
    ]


class Outline(HTMLParser):
    """Collects start tags with their attributes, and checks that elements are closed in order."""

    VOID = ("meta", "path", "circle")

    def __init__(self, page):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def test_the_page_has_every_table_and_curve():
    page = render_page(LoadedRecords(example() + example("IRM")), "My results", {"PACS": ["A", "C", "P"]})
    outline = Outline(page)
    assert "<title>My results</title>" in page
    assert outline.all("html") == [{"lang": "en"}]
    assert len(outline.all("table")) == len(outline.all("caption")) == 3 * 2  # 3 methods x (PACS, Averages)
    assert [a["href"] for a in outline.all("a")] == [f"#method-{i}" for i in range(3)]
    assert [s["id"] for s in outline.all("section")] == ["method-0", "method-1", "method-2", "curves"]
    assert len(outline.all("svg")) == 2 * 3  # 2 algorithms x 3 test domains
    assert {attrs["scope"] for attrs in outline.all("th")} == {"row", "col"}
    assert '<td class="best" title="n = 1">50.0 (1 trial)</td>' in page
    assert '<td class="missing" title="runs are missing">X</td>' in page  # leave-one-out has no pairs here


def test_the_page_loads_nothing():
    page = render_page(LoadedRecords(example()))
    assert not re.search(r"https?:|url\(|@import|\bsrc=|<link", page)
    assert len(Outline(page).all("script")) == 1


def test_the_page_is_whole_without_javascript():
    before_script = render_page(LoadedRecords(example())).split("<script>")[0]
    assert not re.search(r"<section[^>]*(hidden|style)", before_script)


def test_texts_of_the_records_are_escaped():
    loaded = LoadedRecords(example(EVIL, dataset=EVIL), [f"problem with {EVIL}"], {EVIL: (EVIL, '"><b>', "&")})
    page = render_page(loaded, EVIL)
    outline = Outline(page)
    assert EVIL not in page
    assert len(outline.all("script")) == 1
    assert not outline.all("b")
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 10


def test_problems_are_shown():
    page = render_page(LoadedRecords(example(), ["one is broken", "so is another"]))
    assert "<summary>Notes and problems: 2</summary>" in page
    assert "<li>so is another</li>" in page


def test_curves_survive_odd_records():
    nan = float("nan")
    records = [
        make_record(0, [(nan, nan), (0.5, nan)], dataset="Two"),
        make_record(0, [(0.5, 0.5)], dataset="One"),
        make_record(0, [(0.5, 0.5), (0.5, 0.5), (0.5, 0.5)], dataset="PairsOnly", test_envs=[0, 1]),
    ]
    page = render_page(LoadedRecords(records))
    assert len(Outline(page).all("svg")) == 2
    assert "nan,nan" not in page.lower()
    assert not re.search(r'd="[^"]*nan', page)


def test_curves_are_means_and_ranges_over_runs():
    records = [make_record(step, [(acc, 0.5), (0.5, 0.5)], hparams_seed=seed) for step in (0, 100)
               for seed, acc in enumerate((0.0, 0.5))]  # fmt: skip
    page = render_page(LoadedRecords(records), labels={"PACS": ["A", "C"]})
    assert "Held out: <strong>A</strong> (2 runs)" in page
    # Held-out values 0 and 50, training 50: limits -2 to 52; the mean 25 lies in the middle of 208 (bottom) and 30.
    assert "M50.0 119.0L366.0 119.0" in page


def test_axis_places_and_ticks():
    axis = Axis(0.0, 100.0, 200.0, 0.0)
    assert [axis.place(value) for value in (0, 25, 100)] == ["200.0", "150.0", "0.0"]
    assert axis.ticks(5) == [0, 20, 40, 60, 80, 100]
    assert Axis(-2.0, 52.0, 0, 1).ticks() == [0, 10, 20, 30, 40, 50]
    assert Axis(0.0, 5000.0, 0, 1).ticks() == [0, 1000, 2000, 3000, 4000, 5000]
    assert Axis(0.31, 0.34, 0, 1).ticks() == [0.31, 0.315, 0.32, 0.325, 0.33, 0.335, 0.34]


@pytest.mark.parametrize(("values", "expected"), [([0, 10], (-1.0, 11.0)), ([5], (4.0, 6.0)), ([], (-0.1, 1.1))])
def test_limits_are_never_empty(values, expected):
    assert limits(values, margin=0.1) == pytest.approx(expected)


def test_charts_are_well_formed_and_told_apart_without_colour():
    points = [Point(step, step / 10, 0, step / 5) for step in range(100)]
    series = [Series("one & <two>", BLUE_CIRCLES, points), Series("three", ORANGE_SQUARES, points[:1])]
    svg = line_chart(series, title='"a" < b', x_label="x", y_label="y", x_limits=(0, 99), y_limits=(0, 20))
    root = ElementTree.fromstring(svg)
    assert root.attrib["aria-label"] == '"a" < b'
    assert "one & <two>" in [text.text for text in root.iter("text")]
    assert len(list(root.iter("circle"))) == 20 + 1  # every fifth of 100 points, and the legend's
    assert svg.count("stroke-dasharray") == 2  # the second series: its line and its legend
    assert svg.count("fill-opacity") == 1  # one point has no band


@pytest.mark.browser
def test_a_browser_shows_one_method_at_a_time(tmp_path):
    import shutil

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium found")
    (tmp_path / "page.html").write_text(render_page(LoadedRecords(example())))
    options = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path / 'profile'}",
    ]  # fmt: skip
    command = [chromium, *options, "--dump-dom", (tmp_path / "page.html").as_uri()]
    page = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    hidden = ["hidden" in attrs for attrs in Outline(page).all("section")]
    assert hidden == [False, True, True, False]
    assert [link["aria-current"] for link in Outline(page).all("a")] == ["true", "false", "false"]
