"""The report: cost against results by hand, safely embedded data, switches and explorer in a real browser."""

import base64
import json
import re

import numpy as np
import pytest
from browser import Browser
from record_makers import make_record, write_run

from sfmoe_dg.analysis.explorer.section import embedded_json, explorer_section
from sfmoe_dg.cli.main import main
from sfmoe_dg.foundation.files import write_atomic
from sfmoe_dg.results.page.cost import costs
from sfmoe_dg.results.page.page import render_page
from sfmoe_dg.results.page.report import render_report
from sfmoe_dg.results.read import LoadedRecords, load_records

EVIL = "</script><script>document.title='run'</script>"


def encoded(values):
    return base64.b64encode(np.array(values, np.uint8).tobytes()).decode()


def picture(shade):
    """One grey pixel, as a GIF."""
    palette = bytes([shade] * 3 + [0] * 3)
    content = (
        b"GIF89a\x01\x00\x01\x00\x80\x00\x00" + palette + b",\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;"
    )
    return "data:image/gif;base64," + base64.b64encode(content).decode()


def explored():
    """Two objects in two domains, seen by a sparse run with two layers and a dense one; a grid of 1 × 2 patches."""
    images = [
        {"src": picture(60 * i), "label": i // 2, "domain": i % 2, "parts": [[0, 0.5, 0.5]], "attributes": [i // 2]}
        for i in range(4)
    ]
    dataset = {
        "name": "Birds", "domains": ["ink", "neon"], "classes": [EVIL, "wren"], "parts": ["left_wing"],
        "attributes": ["red bill", EVIL], "objects": [[0, 1], [2, 3]], "images": images,
    }  # fmt: skip
    experts = [[[0, 1], [2, 0]], [[1, 0], [1, 2]], [[2, 1], [0, 1]], [[0, 2], [2, 1]]]
    gates = [[[204, 51], [255, 0]]] * 4
    layers = [
        {"name": f"blocks.{i}.mlp", "experts": 3, "k": 2, "chosen": encoded(chosen), "gates": encoded(gates)}
        for i, chosen in enumerate((experts, experts[::-1]))
    ]
    maps = [[[[255, 0]], [[0, 255]]]] * 4
    heads = [{"name": "block 1 (last)", "heads": 2, "grid": [1, 2], "maps": encoded(maps)}]
    common = {"dataset": 0, "unseen": [1], "splits": ["in", "out", "out", "in"], "grid": [1, 2], "attention": heads}
    runs = [
        {"name": "ERM, held out neon", "predicted": [0, 0, 1, 1], "layers": [], **common},
        {"name": f"SFMoE {EVIL}", "predicted": [0, 1, 1, 1], "layers": layers, **common},
    ]
    return {"datasets": [dataset], "runs": runs}


def records():
    both = []
    for options, held_out in (({}, 0.5), ({"split": "identity"}, 0.25)):
        for env in range(3):
            accs = [(held_out, 0.75), (0.5, 0.5), (0.5, 0.5)]
            record = make_record(300, accs, test_envs=[env]) | {"step_time": 0.25, "mem_gb": 1.5}
            both.append(record | ({"options": options} if options else {}))
    return both


def test_costs_are_medians_over_evaluations(tmp_path):
    times = [(0, 9.0), (100, 0.1), (200, 0.2), (300, 0.6)]
    write_run(tmp_path, "a", [
        make_record(step, output_dir="elsewhere/a") | {"step_time": time, "mem_gb": time} for step, time in times
    ])  # fmt: skip
    write_atomic(tmp_path / "a" / "run.json", json.dumps({"num_parameters": 1234}))
    write_run(tmp_path, "b", [make_record(100, algorithm="IRM", output_dir="elsewhere/b")])
    known, unknown = costs(load_records(tmp_path), tmp_path)
    assert (known.seconds, known.seconds_low, known.seconds_high) == (0.2, 0.1, 0.6)
    assert (known.memory, known.parameters, known.runs) == (9.0, (1234,), 1)
    assert (unknown.algorithm, unknown.seconds, unknown.parameters) == ("IRM", None, ())
    page = render_report(load_records(tmp_path), tmp_path)
    assert "<td>100 to 600</td>" in page
    assert "<td>1,234</td>" in page
    assert "not recorded" in page
    assert 'id="explorer"' not in page


def test_embedded_data_cannot_end_their_element():
    text = embedded_json({"name": EVIL, "also": "<!--"})
    assert "<" not in text
    assert json.loads(text) == {"name": EVIL, "also": "<!--"}


def test_the_report_names_no_address(tmp_path):
    page = render_report(LoadedRecords(records()), tmp_path, sections=[explorer_section(explored())])
    assert not re.search(r"https?:|url\(|@import|\bsrc=|<link", page)
    assert EVIL not in page
    assert len(re.findall("<script", page)) == 2


def test_one_kind_of_split_needs_no_switch():
    assert "Split and other options" not in render_page(LoadedRecords(records()[:3]))
    assert "Split and other options" in render_page(LoadedRecords(records()))


def test_a_data_set_whose_name_looks_like_options_has_none():
    """Options come from the records, never from a table's title."""
    odd = [make_record(0, [(0.5, 0.5)], dataset="Birds [size=64]")]
    assert "Split and other options" not in render_page(LoadedRecords(odd))
    listed = [record | {"options": {"augment": ["a", "b"]}} for record in odd]
    assert ">augment=[&quot;a&quot;, &quot;b&quot;]</a>" in render_page(LoadedRecords(odd + listed))


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    page = render_report(LoadedRecords(records()), folder, EVIL, sections=[explorer_section(explored())])
    (folder / "report.html").write_text(page)
    browser = Browser(folder / "profile")
    yield browser, folder / "report.html"
    browser.close()


def visible(browser):
    shown = "[...document.querySelectorAll('.method td.best, .method td[title]')].filter(c => c.offsetParent)"
    return browser.js(f"{shown}.map(c => c.textContent)")


def text(browser, name):
    return browser.js(f"document.getElementById('x-{name}').textContent")


def gates(browser):
    return browser.js("[...document.querySelectorAll('#x-gates .value')].map(e => e.textContent)")


@pytest.mark.browser
def test_switches_change_the_tables(opened):
    browser, path = opened
    browser.open(path)
    assert visible(browser)[0] == "50.0 (1 trial)"
    browser.click("nav a[href='#options-1']")
    assert visible(browser)[0] == "25.0 (1 trial)"
    browser.click("nav a[href='#method-1']")
    assert set(visible(browser)) == {"X"}  # leave-one-domain-out has no pairs here
    current = "[...document.querySelectorAll('nav a[aria-current=true]')].map(a => a.textContent)"
    assert browser.js(current) == ["leave-one-domain-out cross-validation", "split=identity"]


@pytest.mark.browser
def test_the_explorer_changes_image_layer_domain_and_head(opened):
    browser, path = opened
    browser.open(path)
    assert browser.js("document.getElementById('x-run').selectedIndex") == 1  # the run with experts
    # The last layer, the unseen domain: image 1, whose first patch chose experts 2 and 1 there.
    assert gates(browser) == ["–", "0.20", "0.80"]
    assert text(browser, "summary").startswith(f"Class {EVIL}, predicted wren (wrong); a domain that the run never saw")
    before = {name: browser.pixels(f"#x-{name}") for name in ("picture", "map", "attention")}
    browser.choose("#x-head", 1)
    browser.wait(f"document.querySelector('#x-attention').toDataURL() !== {json.dumps(before['attention'])}")
    browser.choose("#x-layer", 0)
    assert gates(browser) == ["0.20", "0.80", "–"]
    browser.choose("#x-domain", 0)
    assert gates(browser) == ["0.80", "0.20", "–"]
    assert "an image that the run was trained on" in text(browser, "summary")
    browser.click("#x-next")
    assert text(browser, "summary").startswith("Class wren, predicted wren (right); a held-out image")
    assert text(browser, "attributes") == EVIL
    assert text(browser, "parts") == "left wing"
    browser.wait(f"document.querySelector('#x-picture').toDataURL() !== {json.dumps(before['picture'])}")
    browser.choose("#x-run", 0)
    assert text(browser, "gates") == "This run has no experts."
    assert browser.js("document.getElementById('x-layer').disabled")
    assert browser.js("document.getElementById('x-image').selectedIndex") == 1  # stays


@pytest.mark.browser
def test_keys_and_pointer_move_the_patch(opened):
    browser, path = opened
    browser.open(path)
    browser.js("document.getElementById('x-map').focus()")
    browser.press("ArrowRight")
    assert text(browser, "patch") == "Gates of the patch in row 1, column 2"
    assert gates(browser) == ["1.00", "dropped", "–"]
    browser.press("ArrowRight")  # there is no third
    assert text(browser, "patch") == "Gates of the patch in row 1, column 2"
    point = "(b => ({x: b.left + b.width / 4, y: b.top + b.height / 2}))"
    browser.js("document.getElementById('x-map').scrollIntoView()")
    place = browser.js(f"{point}(document.getElementById('x-map').getBoundingClientRect())")
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", **place)
    assert text(browser, "patch") == "Gates of the patch in row 1, column 1"
    browser.js("document.querySelectorAll('#x-strip button')[0].focus()")
    browser.press("Enter")
    browser.click("#x-strip button")
    assert browser.js("document.getElementById('x-domain').selectedIndex") == 0
    assert browser.js("document.activeElement.getAttribute('aria-pressed')") == "true"


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_is_wider_than_the_page(opened, width):
    browser, path = opened
    browser.open(path, width)
    assert browser.js("document.documentElement.scrollWidth") <= width


@pytest.mark.browser
def test_nothing_is_asked_for_and_nothing_complains(opened):
    browser, path = opened
    browser.open(path)
    browser.wait("document.querySelector('#x-picture').getContext('2d').getImageData(100, 100, 1, 1).data[3] === 255")
    elsewhere = [url for url in browser.requests if not url.startswith(("data:", path.as_uri()))]
    assert elsewhere == []
    assert browser.requests
    assert browser.errors == []
    assert browser.js("document.title") == EVIL


@pytest.mark.browser
def test_the_command_makes_a_report_of_trained_runs(tmp_path, capsys):
    for name, algorithm in (("a", "SFMoE"), ("b", "ERM")):
        flags = ["--steps", "1", "--test_envs", "3", "--output_dir", str(tmp_path / name)]
        assert main(["train", "--dataset", "StyledDigits", "--algorithm", algorithm, *flags]) == 0
    assert main(["report", "--output_dir", str(tmp_path), "--images", "8", "--device", "cpu"]) == 0
    path = tmp_path / "report.html"
    assert str(path) in capsys.readouterr().out
    browser = Browser(tmp_path / "profile")
    try:
        browser.open(path)
        names = "[...document.getElementById('x-run').options].map(o => o.textContent)"
        assert browser.js(names) == [f"{a}, held out neon (hparams 0, trial 0)" for a in ("ERM", "SFMoE")]
        assert browser.js("document.getElementById('x-image').options.length") == 2
        weights = [float(value) for value in gates(browser) if value not in ("–", "dropped")]
        assert sum(weights) == pytest.approx(1, abs=0.02)
        browser.wait("document.querySelector('#x-map').getContext('2d').getImageData(9, 9, 1, 1).data[3] === 255")
        assert browser.errors == []
    finally:
        browser.close()
