"""The subjects of figures: their runs and images, and the messages if something is missing."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from record_makers import make_record, write_run
from run_makers import opened_run, subject_of

from sfmoe_dg.analysis.ablation import figure as ablation
from sfmoe_dg.analysis.adaptive_compute import figure as adaptive_compute
from sfmoe_dg.analysis.attention import figure as attention
from sfmoe_dg.analysis.compare import figure as compare
from sfmoe_dg.analysis.efficiency import figure as efficiency
from sfmoe_dg.analysis.few_shot import figure as few_shot
from sfmoe_dg.analysis.interference import figure as interference
from sfmoe_dg.analysis.subject.subject import NotApplicable, Subject, best_sparse
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.models.moe.layers import moe_layers


@pytest.fixture(scope="module")
def sparse():
    return opened_run("SFMoE")


@pytest.fixture(scope="module")
def residual():
    return opened_run("ERM", backbone="test_resnet")


def finished(root, name, algorithm="ERM", held_out_acc=0.5, **options):
    """A run's folder as training leaves it. Its model file is empty, since no test reads it."""
    record = make_record(5, [(held_out_acc, 0.5), (0.5, 0.5), (0.5, 0.5)], algorithm=algorithm, output_dir=name)
    write_run(root, name, [record | ({"options": options} if options else {})])
    for file in ("done", "model.pkl"):
        (root / name / file).write_text("")


def test_runs_with_other_options_are_other_experiments(tmp_path):
    finished(tmp_path, "other", "CORAL", 0.9, split="identity")
    finished(tmp_path, "own", "ERM", 0.25)
    finished(tmp_path, "same", "CORAL", 0.5)
    plain, identity = Subject(tmp_path / "own"), Subject(tmp_path / "other")
    assert [candidate.folder.name for candidate in plain.siblings] == ["same"]
    assert identity.siblings == []
    found = efficiency.accuracies(plain).set_index("algorithm")["accuracy"]
    assert found.to_dict() == pytest.approx({"ERM": 25, "CORAL": 50})
    assert efficiency.accuracies(identity)["accuracy"].tolist() == pytest.approx([90])


def test_algorithms_that_know_no_backbones_cost_what_their_own_network_does(monkeypatch):
    tables = {"Theirs": {"lr": 0.1}, "Ours": {"backbone": "auto"}, "Sparse": {"backbone": "sf_moe_tiny_32"}}
    monkeypatch.setattr(efficiency, "default_hparams", lambda name, dataset: tables[name])
    runs = [SimpleNamespace(algorithm=SimpleNamespace(hparams=values)) for values in tables.values()]
    subject = SimpleNamespace(
        run=SimpleNamespace(
            dataset=SimpleNamespace(input_shape=(3, 224, 224)), spec=SimpleNamespace(algorithm="Theirs", dataset="PACS")
        ),
        siblings=[SimpleNamespace(record={"args": {"algorithm": name}}) for name in ("Ours", "Sparse")],
        pair=dict(zip(("one", "two", "three"), runs, strict=True)),
    )
    assert efficiency.pairs_of(subject) == [
        ("Ours", "auto"),
        ("Ours", "sf_moe_tiny_32"),
        ("Sparse", "sf_moe_tiny_32"),
        ("Theirs", "auto"),
    ]


def test_a_sweep_without_a_model_has_nothing_to_look_into(tmp_path):
    write_run(tmp_path, "a", [make_record()])
    with pytest.raises(UserError, match="neither the folder of a finished run with its model"):
        best_sparse(tmp_path)


def test_images_come_in_the_selections_own_order(sparse):
    subject = subject_of(sparse)
    rows = np.array([5, 15, 0])
    expected = torch.cat([subject.inputs(subject.only(rows[i : i + 1])) for i in range(3)])
    assert torch.equal(subject.inputs(subject.only(rows)), expected)


def test_every_call_of_a_shared_layer_may_be_asked_for():
    run = opened_run("WideNet")
    ((name, _),) = moe_layers(run.algorithm)
    assert subject_of(run, layer=name).main_layer == name
    assert subject_of(run, layer=f"{name}#2").main_layer == f"{name}#2"
    with pytest.raises(UserError, match=r"unknown mixture-of-experts layer 'top#2'"):
        subject_of(run, layer="top#2").require_experts()
    with pytest.raises(UserError, match="unknown mixture-of-experts layer"):
        _ = subject_of(run, layer=f"{name}#99").main_layer


def test_a_counterpart_without_heads_is_left_out_and_named(sparse, residual):
    found = list(attention.drawings(subject_of(sparse, residual)))
    assert [drawing.name for drawing in found] == ["attention_heads", "attention_redundancy"]
    for drawing in found:
        assert set(drawing.data["model"]) == {"sparse"}
        assert "; without dense: " in drawing.caption
        assert "has no tokens" in drawing.caption
        assert "\n" not in drawing.caption
    with pytest.raises(NotApplicable, match="has no tokens"):
        list(attention.drawings(subject_of(residual, sparse)))


def test_only_a_network_without_tokens_is_spared_the_prompts(sparse, residual, monkeypatch):
    def refuse(*args, **kwargs):
        raise UserError("too few images")

    ridge = pd.DataFrame({"method": ["none", "ridge"]})
    monkeypatch.setattr(few_shot, "few_shot_ridge", lambda *args, **kwargs: ridge)
    monkeypatch.setattr(few_shot, "few_shot_prompts", refuse)
    table, asked = few_shot.measure(subject_of(residual), residual, 3)
    assert (table["method"].tolist(), asked) == (["none", "ridge"], 4)
    with pytest.raises(UserError, match="too few images"):
        few_shot.measure(subject_of(sparse), sparse, 3)


def test_a_caption_speaks_of_prompts_where_there_are_some():
    rows = [("ridge", "SFMoE"), ("ridge", "ERM"), ("prompts", "SFMoE"), ("prompts", "ERM")]
    table = pd.DataFrame(rows, columns=["method", "model"])
    ridge = "ridge head on frozen features (1, 5, 10 per class and 1% of the domain)"
    assert few_shot.methods_of(table[:2]) == f"{ridge}; mean ± standard error of 5 draws"
    both = f"{ridge} and prompt tuning (1%); mean ± standard error of 5 and 2 draws"
    assert few_shot.methods_of(table[:3]) == f"{both}; ERM has no tokens for prompts to join"
    assert few_shot.methods_of(table) == both


@pytest.mark.parametrize("level", ["modality", "task", "attribute"])
def test_experts_that_do_not_look_at_tokens_have_no_capacity(level):
    with pytest.raises(NotApplicable, match="needs routes per token"):
        next(adaptive_compute.drawings(subject_of(opened_run("CondMoE", routing_level=level))))


def test_ranks_of_one_domain_are_left_out_with_the_reason(tmp_path):
    finished(tmp_path, "a", "ERM")
    finished(tmp_path, "b", "CORAL")
    found = list(compare.drawings(Subject(tmp_path)))
    assert [drawing.name for drawing in found] == ["compare", "compare_pairs"]
    assert "No critical-difference diagram: ranks need two test domains" in found[1].caption


def test_an_ablation_is_of_one_data_set(tmp_path):
    finished(tmp_path, "a", "ERM")
    finished(tmp_path, "b", "ERM", split="identity")
    with pytest.raises(NotApplicable, match=r"PACS, PACS \[split=identity\], and ablations are of one data set"):
        next(ablation.drawings(Subject(tmp_path)))


def test_interference_is_measured_on_every_image_that_was_drawn(sparse, monkeypatch):
    monkeypatch.setattr(interference, "BATCH_SIZE", 150)  # more than a loader hands over at once
    (minibatches,) = interference.minibatches(subject_of(sparse), sparse, 1)
    assert [tuple(x.shape) for x, _ in minibatches] == [(150, 3, 32, 32)] * 3
    assert [len(y) for _, y in minibatches] == [150] * 3


def test_a_run_says_what_it_has_not_seen(sparse):
    assert sparse.held_out == "neon"
    assert sparse.seen_domains == ("chalk", "ink", "mosaic")
