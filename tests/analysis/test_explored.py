"""The explorer's data: routing as bytes, the splits of its images, and a note for everything that is left out."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest
from record_makers import make_record
from run_makers import opened_run

from sfmoe_dg.analysis.explorer import data as explored
from sfmoe_dg.analysis.subject.observations import LayerRouting, observe
from sfmoe_dg.analysis.subject.opened import OpenedRun
from sfmoe_dg.analysis.subject.subject import Candidate


@pytest.fixture(scope="module")
def sparse():
    return opened_run("SFMoE")


def candidate(trial=0):
    record = make_record(dataset="StyledDigits", algorithm="SFMoE", test_envs=[3], trial_seed=trial)
    return Candidate(Path("run"), record, 0.5)


def decoded(text):
    return np.frombuffer(base64.b64decode(text), np.uint8)


def test_routing_as_bytes_by_hand():
    # Two images of a class token and one patch; the second image's second choice is dropped, its first hardly counts.
    experts = np.array([[[9, 9], [0, 2]], [[9, 9], [1, 0]]], np.uint8)
    gates = np.array([[[1, 1], [0.8, 0.2]], [[1, 1], [0.0001, 0.0]]], np.float16)
    kept = np.array([[[True, True], [True, True]], [[True, True], [True, False]]])
    (found,) = explored.describe_layers({"network.blocks.0.mlp": LayerRouting(3, experts, gates, kept)}, 1)
    assert (found["name"], found["experts"], found["k"]) == ("blocks.0.mlp", 3, 2)
    assert decoded(found["chosen"]).tolist() == [0, 2, 1, 0]
    assert decoded(found["gates"]).tolist() == [204, 51, 1, 0]


@pytest.mark.parametrize("num_experts", [256, 257])
def test_choices_that_a_byte_cannot_hold_are_left_out(num_experts):
    experts = np.array([[[255], [num_experts - 1]]], np.uint16)
    layer = LayerRouting(num_experts, experts, np.ones((1, 2, 1), np.float16), np.ones((1, 2, 1), bool))
    found = explored.describe_layers({"moe": layer}, 2)
    assert [decoded(one["chosen"]).tolist() for one in found] == [[255, 255]] * (num_experts <= 256)


def test_a_layer_that_is_left_out_is_named(sparse, monkeypatch):
    shown = explored.choose_images(sparse, 8)
    names = [layer["name"] for layer in explored.describe_run(sparse, candidate(), shown)[0]["layers"]]
    monkeypatch.setattr(explored, "MAX_EXPERTS", 5)
    described, notes = explored.describe_run(sparse, candidate(), shown)
    assert described["layers"] == []
    assert len(notes) == len(names) == 2
    run = "SFMoE, held out neon (hparams 0, trial 0)"
    assert notes[0] == f"{names[0]} of {run} is not in the explorer, which shows layers of at most 5 experts"


def test_a_run_is_described_as_it_is_observed(sparse):
    shown = explored.choose_images(sparse, 8)
    described, notes = explored.describe_run(sparse, candidate(), shown)
    seen = observe(sparse, splits=("in", "out"), num_workers=0)
    row_of = {pair: row for row, pair in enumerate(zip(seen.domain.tolist(), seen.index.tolist(), strict=True))}
    rows = [row_of[pair] for pair in zip(shown.selection.domain.tolist(), shown.selection.index.tolist(), strict=True)]
    assert described["predicted"] == seen.predicted[rows].tolist()
    assert described["splits"] == seen.split[rows].tolist() == shown.selection.split.tolist()
    assert {"in", "out"} == set(described["splits"])
    name = next(iter(seen.layers))
    assert decoded(described["layers"][0]["chosen"]).tolist() == seen.patches(name).experts[rows].ravel().tolist()
    assert notes == []


def test_a_run_without_experts_has_predictions_and_attention(sparse):
    dense = opened_run("ERM", backbone="vit_tiny_32")
    described, _ = explored.describe_run(dense, candidate(), explored.choose_images(dense, 8))
    assert described["layers"] == []
    assert len(described["predicted"]) == 8
    (first, *_) = described["attention"]
    maps = decoded(first["maps"]).reshape(8, first["heads"], -1)
    assert (maps.max(axis=-1) == 255).all()  # each in 255ths of its largest value


def test_pictures_are_read_once_for_the_attention_of_all_blocks(sparse, monkeypatch):
    read, batches = [], OpenedRun.batches

    def counted(run, selection, *args):
        read.append(len(selection))
        return batches(run, selection, *args)

    selection = explored.choose_images(sparse, 8).selection
    monkeypatch.setattr(OpenedRun, "batches", counted)
    assert len(explored._attention(sparse, selection)) == 4
    assert read == [1, 8]  # one picture first, to find the network


@pytest.mark.parametrize(("runs", "rest"), [(1, ""), (3, ", and 2 runs are left out")])
def test_data_that_are_too_large_are_told_of(sparse, monkeypatch, runs, rest):
    found = [candidate(trial) for trial in range(runs)]
    monkeypatch.setattr(explored, "_runs", lambda root: (found, []))
    monkeypatch.setattr(explored, "open_run", lambda folder, **opening: sparse)
    assert explored.explore(Path("sweep"), 8).notes == ()
    monkeypatch.setattr(explored, "MAX_BYTES", 1)
    result = explored.explore(Path("sweep"), 8)
    assert len(result.data["runs"]) == 1
    (note,) = result.notes
    assert note.startswith("the explorer's data take 0 MB")
    assert note.endswith(f"fewer images would take less{rest}")
