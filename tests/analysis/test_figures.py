"""Figures: their saved files, labels that do not overlap, tables against results by hand, and the whole command."""

import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from record_makers import make_record

from sfmoe_dg.analysis.ablation import figure as ablation
from sfmoe_dg.analysis.compare import figure as compare
from sfmoe_dg.analysis.drawing import style
from sfmoe_dg.analysis.drawing.saving import Drawing, save
from sfmoe_dg.analysis.efficiency import figure as efficiency
from sfmoe_dg.analysis.expert_maps import figure as expert_maps
from sfmoe_dg.analysis.few_shot import figure as few_shot
from sfmoe_dg.analysis.parts import figure as parts
from sfmoe_dg.analysis.registry import ANALYSES
from sfmoe_dg.analysis.stability import figure as stability
from sfmoe_dg.analysis.statistics.comparison import rank_methods
from sfmoe_dg.cli import analyze
from sfmoe_dg.cli.main import main
from sfmoe_dg.foundation.errors import UserError

EXPERTS = pd.RangeIndex(3, name="expert")
ROOT = Path(__file__).parents[2]


def texts_of(figure):
    """All drawn texts. Labels of ticks outside the limits of their axis are not drawn."""
    for axes in figure.axes:
        yield from (axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label, *axes.texts)
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            yield from (tick.label1 for tick in axis.get_major_ticks() if axes.axison and low <= tick.get_loc() <= high)
    for legend in figure.legends:
        yield from legend.get_texts()


def assert_readable(figure):
    """Check that no two texts overlap; returns all texts."""
    figure.draw_without_rendering()
    found = [
        (text.get_text(), text.get_window_extent())
        for text in texts_of(figure)
        if text.get_visible() and text.get_text().strip()
    ]
    for place, (text, box) in enumerate(found):
        for other, b in found[place + 1 :]:
            shared = min(box.x1, b.x1) - max(box.x0, b.x0), min(box.y1, b.y1) - max(box.y0, b.y0)
            assert min(shared) < 2, f"{text!r} lies on {other!r}"
    return [text for text, _ in found]


def small_figure():
    figure, axes = style.new_figure(1, 1, 2, 2)
    style.curve(axes[0, 0], 0, [1, 2], [3, 4])
    style.plain_axes(axes[0, 0], "time (s)", "accuracy (%)")
    return figure


def test_a_figure_is_saved_with_its_numbers_and_a_caption(tmp_path):
    data = pd.DataFrame({"x": [1, 2], "y": [0.5, np.nan]})
    paths = save(tmp_path / "new", Drawing("name", small_figure(), data, "What it shows."))
    assert [path.name for path in paths] == ["name.png", "name.pdf", "name.csv", "name.txt"]
    assert paths[0].read_bytes()[:4] == b"\x89PNG"
    width, height = struct.unpack(">II", paths[0].read_bytes()[16:24])
    assert min(width, height) > 250
    assert paths[1].read_bytes()[:5] == b"%PDF-"
    assert paths[2].read_text() == "x,y\n1,0.5\n2,\n"
    assert paths[3].read_text() == "What it shows.\n"
    before = [path.read_bytes() for path in paths]
    save(tmp_path / "new", Drawing("name", small_figure(), data, "What it shows."))
    assert [path.read_bytes() for path in paths] == before
    assert len(list((tmp_path / "new").iterdir())) == 4


def test_a_caption_is_one_line(tmp_path):
    with pytest.raises(UserError, match="the caption of the figure 'name' has several lines"):
        save(tmp_path, Drawing("name", small_figure(), pd.DataFrame(), "two\nlines"))
    assert not list(tmp_path.iterdir())


def test_an_analysis_is_one_folder_and_one_line_of_the_registry(capsys):
    folders = {path.parent.name for path in (ROOT / "sfmoe_dg/analysis").glob("*/figure.py")}
    assert folders == {name.replace("-", "_") for name in ANALYSES.registered}
    for name in ANALYSES.registered:
        drawings = ANALYSES.load(name)
        assert drawings.__module__ == f"sfmoe_dg.analysis.{name.replace('-', '_')}.figure"
        assert drawings.__name__ == "drawings"
    assert main(["list", "analyses"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ANALYSES.registered)


def test_colours_of_neighbours_differ_for_every_kind_of_colour_vision():
    """Okabe and Ito's first six, seen without red, green or blue cones (Viénot 1999; Brettel 1997, simplified)."""
    simulations = {
        "protan": [[0.11, 0.89, 0.0], [0.11, 0.89, 0.0], [0.004, -0.004, 1.0]],
        "deutan": [[0.29, 0.71, 0.0], [0.29, 0.71, 0.0], [-0.02, 0.02, 1.0]],
        "normal": np.eye(3),
    }
    rgb = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in style.PALETTE[:6]]) ** 2.2
    for name, matrix in simulations.items():
        seen = np.clip(rgb @ np.array(matrix).T, 0, 1) ** (1 / 2.2)
        apart = np.abs(seen[:, None] - seen[None]).sum(-1)[np.triu_indices(6, 1)]
        assert apart.min() > 0.12, name


@pytest.mark.parametrize(("background", "ink"), [("white", "black"), ("#00224e", "white"), ("#fde737", "black")])
def test_ink_is_read_on_its_background(background, ink):
    assert style.ink_on(background) == ink


def test_part_histogram_is_drawn_as_shares():
    index = pd.MultiIndex.from_product([["a", "together"], ["beak", "left_wing"]], names=["domain", "part"])
    histogram = pd.DataFrame([[1, 3, 0], [2, 1, 1], [1, 3, 0], [0, 0, 0]], index=index, columns=EXPERTS)
    figure = parts.draw_histogram(histogram)
    drawn = [image.get_array() for axes in figure.axes for image in axes.images]
    np.testing.assert_allclose(drawn[0], [[0.25, 0.75, 0.0], [0.5, 0.25, 0.25]])
    assert drawn[1].mask.tolist() == [[False] * 3, [True] * 3]  # a part that was never visible
    assert {"beak", "left wing", "expert"} <= set(assert_readable(figure))


def test_maps_of_two_pictures_show_the_experts_numbers():
    maps = expert_maps.ExpertMaps(
        3, np.array([[[0, 1]], [[2, 2]]]), np.ones((2, 1, 2), np.float32), np.ones((2, 1, 2), bool)
    )
    seen = np.array([[0.25, 0.5, 1], [np.nan, np.nan, 0]])
    columns = [
        expert_maps.Column(name, np.zeros((8, 8, 3), np.uint8), seen, i) for i, name in enumerate(("ink", "neon"))
    ]
    figure = expert_maps.draw_maps(columns, {"blocks.0.mlp": maps})
    texts = assert_readable(figure)
    assert sorted(text for text in texts if text.isdigit()) == ["0", "1", "2", "2"]
    assert {"ink", "neon", "blocks.0.mlp"} <= set(texts)
    table = expert_maps.map_table(columns, {"blocks.0.mlp": maps})
    assert table["experts"].tolist() == [0, 1, 2, 2]
    assert table["column"].tolist() == [0, 1, 0, 1]


def settings(**changes):
    return {"moe_layers": "[S,F]x2", "num_experts": 6, "top_k": 2, "router": "linear"} | changes


def ablation_records():
    variants = {
        "base": settings(),
        "all": settings(moe_layers="S*4"),
        "two": settings(num_experts=2),
        "twelve": settings(num_experts=12),
        "both": settings(num_experts=2, top_k=1),
        "ERM": dict.fromkeys(settings(), "default"),
        # Sparse, with a block pattern that its records do not say.
        "SFMoE": dict.fromkeys(settings(), "default") | {"backbone": "sf_moe_tiny_32"},
    }
    records = []
    for place, (name, values) in enumerate(variants.items()):
        record = make_record(5, [(0.1 * place, 0.5), (0.5, 0.5)], algorithm=name, test_envs=[0])
        records.append(record | {"hparams": values})
    return records


def test_an_ablation_changes_one_setting_at_a_time():
    table = ablation.ablation_table(ablation_records())
    rows = [tuple(row) for row in table[["factor", "value", "method", "accuracy"]].itertuples(index=False)]
    assert [row[:3] for row in rows] == [
        ("moe_layers", "dense", "ERM"),
        ("moe_layers", "S*4", "all"),
        ("moe_layers", "[S,F]x2", "base"),
        ("num_experts", 2, "two"),
        ("num_experts", 6, "base"),
        ("num_experts", 12, "twelve"),
    ]
    assert [row[3] for row in rows] == pytest.approx([50, 10, 0, 20, 0, 30])
    assert "number of experts" in assert_readable(ablation.draw_ablation(table))


def test_what_is_no_ablation_has_an_empty_table():
    same = [make_record(algorithm="ERM"), make_record(algorithm="CORAL")]
    assert ablation.ablation_table(same).empty


def test_critical_difference_diagram_names_every_method():
    rows = [("D", m, d, 0, 50 + 10 * i + d) for d in range(4) for i, m in enumerate(("ERM", "CORAL", "SFMoE"))]
    scores = pd.DataFrame(rows, columns=["dataset", "method", "domain", "trial", "accuracy"])
    ranking = rank_methods(scores, "domain")
    texts = assert_readable(compare.draw_ranks(ranking))
    assert {"SFMoE (1.00) ", " ERM (3.00)"} <= set(texts)
    # Nemenyi for three methods and four blocks: 2.344 · √(3 · 4 / (6 · 4)).
    assert "critical difference 1.66" in texts


def test_published_numbers_stand_beside_measured_ones():
    measured = pd.DataFrame(
        [("PACS", "ERM", 85.0, 0.5, 3, 4), ("PACS", "SFMoE", 88.0, 0.0, 1, 4)],
        columns=["dataset", "method", "mean", "stderr", "trials", "domains"],
    )
    beside = pd.DataFrame(
        [("PACS", "ERM", "Paper", "v1", 85.5, 0.2)],
        columns=["dataset", "method", "source", "version", "published", "published_stderr"],
    )
    texts = assert_readable(compare.draw_means(measured, beside))
    assert {"PACS", "ERM", "SFMoE", "measured", "Paper, v1"} <= set(texts)


def test_points_are_named_beside_each_other():
    figure, axes = style.new_figure(1, 1, 4, 3)
    axes[0, 0].plot([1, 1, 1], [5, 5, 5], "o")
    style.annotate_points(axes[0, 0], [1, 1, 1], [5, 5, 5], ["first", "second", "third"])
    assert {"first", "second", "third"} <= set(assert_readable(figure))


def test_costs_are_drawn_in_milliseconds_and_mebibytes():
    costs = pd.DataFrame(
        {
            "algorithm": ["ERM", "ERM", "SAM"],
            "backbone": ["auto", "sf_moe_tiny_32", "auto"],
            "seconds": [0.01, 0.02, 0.04],
            "seconds_low": [0.009, 0.02, 0.03],
            "seconds_high": [0.011, 0.02, 0.05],
            "peak_bytes": [2.0**20, 2.0**21, np.nan],
        }
    )
    figure = efficiency.draw_costs(costs)
    marks = [line.get_xdata().tolist() for line in figure.axes[0].lines if line.get_marker() in ("o", "s")]
    assert marks[0] == pytest.approx([10, 40])
    memory = [line.get_xdata().tolist() for line in figure.axes[1].lines if line.get_marker() == "s"]
    assert memory[0] == pytest.approx([2])
    assert {"time of one update (ms)", "peak memory of one update (MiB)"} <= set(assert_readable(figure))


def test_few_shot_is_drawn_in_percent_against_examples():
    table = pd.DataFrame(
        [
            ("none", 0, 0.0, 0.5, np.nan),
            ("ridge", 1, 10.0, 0.6, 0.1),
            ("ridge", 5, 50.0, 0.8, 0.05),
            ("prompts", 0.01, 4.0, 0.55, 0.0),
        ],
        columns=["method", "shots", "examples", "accuracy", "stderr"],
    ).assign(model="SFMoE (sparse)", domain="neon")  # fmt: skip
    figure = few_shot.draw_few_shot(table)
    ridge = next(line for line in figure.axes[0].lines if line.get_xdata().tolist() == [10.0, 50.0])
    assert ridge.get_ydata().tolist() == pytest.approx([60, 80])
    assert {"unseen: neon", "4", "10", "50"} <= set(assert_readable(figure))


def test_stability_is_symmetric_with_stars_where_sure():
    pairs = pd.DataFrame([("a", "b", 0.5, 0.01), ("a", "c", 0.1, 0.5), ("b", "c", -0.2, 0.04)],
                         columns=["domain", "other", "rho", "p"])  # fmt: skip
    texts = assert_readable(stability.draw_pairs(pairs))
    assert sorted(text for text in texts if "." in text and text[-1] == "*") == ["-0.20*", "-0.20*", "0.50*", "0.50*"]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A sweep of two tiny runs, sparse and dense, on StyledDigits."""
    root = tmp_path_factory.mktemp("sweep")
    for name, algorithm in (("a", "SFMoE"), ("b", "ERM")):
        flags = ["--steps", "1", "--test_envs", "3", "--output_dir", str(root / name)]
        assert main(["train", "--dataset", "StyledDigits", "--algorithm", algorithm, *flags]) == 0
    return root


FAST = ["parts", "expert-maps", "attention", "specialisation", "interference"]


FIGURES = {"parts", "expert_maps_1", "attention_heads", "expert_class_weight", "specialisation", "interference"}


@pytest.mark.parametrize(
    ("what", "figures"), [(["parts"], {"parts"}), pytest.param(FAST, FIGURES, marks=pytest.mark.slow)]
)
def test_the_command_draws_and_names_what_it_drew(sweep, tmp_path, capsys, what, figures):
    words = ["analyze", str(sweep), "--what", *what, "--images", "12", "--output_dir", str(tmp_path), "--device", "cpu"]
    assert main(words) == 0
    names = {path.stem for path in tmp_path.glob("*.png")}
    assert figures <= names
    told = capsys.readouterr().out
    for name in names:
        caption = (tmp_path / f"{name}.txt").read_text()
        assert caption.count("\n") == 1
        assert f"{tmp_path / name}.png: {caption}" in told
        assert len(pd.read_csv(tmp_path / f"{name}.csv")) > 0
        assert any(word in caption for word in ("out-split", "in-split")), name
    assert "48 images of the out-splits of chalk, ink, mosaic, neon (unseen) (StyledDigits)" in told


def test_a_run_without_experts_is_refused_by_name(sweep, capsys):
    assert main(["analyze", str(sweep / "b"), "--what", "parts", "--device", "cpu"]) == 2
    assert "ERM (held out neon) has no experts" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--what", "parts"], "nowhere is no folder"),
        ([".", "--what", "prats"], "unknown analysis 'prats' for --what: did you mean parts"),
        ([".", "--what", "parts", "--images", "0"], "--images is 0; it must be at least 1"),
    ],
)
def test_bad_input_is_one_sentence(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["analyze", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_all_leaves_out_by_name_what_does_not_apply(sweep, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(analyze, "ANALYSES", _Only("parts", "ablation"))
    assert main(["analyze", str(sweep / "b"), "--what", "all", "--output_dir", str(tmp_path), "--device", "cpu"]) == 0
    told = capsys.readouterr().err
    assert "parts is left out: ERM (held out neon) has no experts" in told
    assert "ablation is left out" in told
    assert not list(tmp_path.iterdir())


class _Only(dict):
    """A registry with only some of the analyses."""

    def __init__(self, *names):
        super().__init__({name: name for name in names})

    def load(self, name):
        return ANALYSES.load(name)
