"""Recording a run: every image gets its own routing and annotations."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import timm
import torch
from observation_makers import LAYER, observations, random_observations, routing

import sfmoe_dg.models.backbones
from sfmoe_dg.algorithms.registry import ALGORITHMS, default_hparams
from sfmoe_dg.analysis.subject.observations import RoutingRecorder, observe
from sfmoe_dg.analysis.subject.opened import open_run
from sfmoe_dg.data.build import open_data
from sfmoe_dg.data.catalog import CATALOG
from sfmoe_dg.data.sets import styled_digits
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.models.moe.layers import moe_layers
from sfmoe_dg.models.moe.trace import routing_trace
from sfmoe_dg.runs.spec import Options, RunSpec
from sfmoe_dg.training.evaluate import is_correct, predicted_classes
from sfmoe_dg.training.loop import train
from sfmoe_dg.training.prepare import Execution


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    spec = RunSpec("StyledDigits", "SFMoE", (3,), steps=1, trial_seed=1, options=Options(split="identity"))
    train(spec, folder, Execution(device="cpu", num_workers=0))
    return open_run(folder)


@pytest.fixture(scope="module")
def seen(run):
    return observe(run, num_workers=0)


def test_two_images_by_hand():
    # A class token, then two patches; first choices of patches are 0 and 1, then 2 twice.
    found = observations(routing([[[2, 0], [0, 1], [1, 0]], [[0, 1], [2, 1], [2, 0]]]))
    assert found.prefix == 1
    assert found.top_experts(LAYER).tolist() == [[0, 1], [2, 2]]
    assert found.usage(LAYER).tolist() == [[0.5, 0.5, 0], [0, 0, 1]]
    assert found.take(np.array([1])).usage(LAYER).tolist() == [[0, 0, 1]]
    with pytest.raises(UserError, match=r"did you mean blocks.0.mlp"):
        found.usage("blocks.1.mlp")


def test_taking_rows_takes_them_everywhere():
    found = random_observations(0)
    rows = np.array([5, 2])
    part = found.take(rows)
    assert len(part) == 2
    for name in ("domain", "index", "split", "label", "predicted", "identity"):
        np.testing.assert_array_equal(getattr(part, name), getattr(found, name)[rows])
    np.testing.assert_array_equal(part.layer(LAYER).gates, found.layer(LAYER).gates[rows])
    np.testing.assert_array_equal(part.annotations.parts, found.annotations.parts[rows])
    np.testing.assert_array_equal(part.annotations.attributes, found.annotations.attributes[rows])
    np.testing.assert_array_equal(found.take(found.domain == 1).domain, 1)


def test_accuracies_are_those_of_training(run, seen):
    record = json.loads((run.folder / "results.jsonl").read_text().splitlines()[-1])
    for env in range(4):
        mine = seen.domain == env
        right = seen.label[mine] == seen.predicted[mine]
        assert right.mean() == pytest.approx(record[f"env{env}_out_acc"])
        assert set(seen.index[mine]) == set(run.splits[env].out)
    assert seen.seen.tolist() == [True, True, True, False]
    assert run.seen_domains == ("chalk", "ink", "mosaic")


def test_every_image_has_its_own_route(run, seen):
    assert (seen.grid, seen.prefix) == ((4, 4), 1)
    assert list(seen.layers) == [name for name, _ in moe_layers(run.algorithm)]
    random = np.random.default_rng(0)
    for row in random.integers(len(seen), size=3):
        x = run.dataset[int(seen.domain[row])].batch(seen.index[[row]])
        alone = []
        with torch.no_grad(), routing_trace(run.algorithm, alone.append):
            run.algorithm.predict(x)
        for trace in alone:
            layer = seen.layer(trace.layer)
            np.testing.assert_array_equal(layer.experts[row], trace.experts[0])
            np.testing.assert_allclose(layer.gates[row], trace.gates[0], atol=2e-3)
            np.testing.assert_array_equal(layer.kept[row], trace.kept[0])


def test_what_is_known_of_digits(seen):
    ink, labels = styled_digits.digits()
    np.testing.assert_array_equal(seen.label, labels[seen.identity])
    notes = seen.annotations
    top, left = notes.part_names.index("top"), notes.part_names.index("left")
    for row in (0, len(seen) - 1):
        stroke = ink[seen.identity[row]] >= styled_digits.HALF_INK
        # The middle of the first row with ink, as a share of the picture.
        assert notes.parts[row, top, 1] == pytest.approx((np.flatnonzero(stroke.any(1))[0] + 0.5) / 32)
        assert notes.parts[row, left, 0] == pytest.approx((np.flatnonzero(stroke.any(0))[0] + 0.5) / 32)
    hidden = notes.parts[..., 2] == 0
    assert hidden.any()
    assert np.isnan(notes.parts[hidden][:, :2]).all()
    assert set(np.unique(notes.attributes)) == {0, 1}


def test_memory_is_four_bytes_per_token_and_choice(seen):
    assert seen.nbytes == len(seen) * 2 * 17 * 2 * 4
    # So 10,000 images of 197 tokens, 12 layers and two choices stay far below 1 GB.
    assert seen.nbytes / len(seen) / 2 / 17 * 10_000 * 12 * 197 < 0.2e9


def test_a_limit_chooses_the_same_objects_in_every_domain(run):
    selection = run.select(("in", "out"), limit=50)
    identity = [run.dataset[int(env)].identities[i] for env, i in zip(selection.domain, selection.index, strict=True)]
    groups = [set(np.array(identity)[selection.domain == env]) for env in range(4)]
    assert [len(group) for group in groups] == [50] * 4
    assert groups[0] == groups[1] == groups[2]
    # Of the split by identity, the test domain has objects of its own.
    assert not groups[0] & groups[3]
    assert set(selection.split) == {"in", "out"}
    only = run.select(("out",), envs=[2], limit=10_000)
    assert set(only.domain) == {2}
    assert set(only.index) == set(run.splits[2].out)


def test_a_limit_follows_one_order_of_objects_whatever_the_splits_hold(run):
    """Of the objects that two domains' out-splits share, the one domain's chosen ones are among the other's."""
    spec = replace(run.spec, options=Options())
    mixed = replace(run, spec=spec, splits=open_data(CATALOG.load(spec.dataset), spec).splits)
    selection = mixed.select(("out",), limit=100)
    objects = [mixed.dataset[env].identities[split.out] for env, split in enumerate(mixed.splits)]
    chosen = [mixed.dataset[env].identities[selection.index[selection.domain == env]] for env in range(4)]
    for one, two in combinations(range(4), 2):
        shared = set(objects[one]) & set(objects[two])
        first, second = (shared & set(chosen[env]) for env in (one, two))
        assert len(shared) > 20
        assert first <= second or second <= first


def test_a_single_logit_decides_between_two_classes():
    assert predicted_classes(torch.tensor([[0.5], [-0.5], [0.0]])).tolist() == [1, 0, 0]
    assert predicted_classes(torch.tensor([[0.1, 0.3], [0.2, -1.0]])).tolist() == [1, 0]
    assert is_correct(torch.tensor([[0.5], [-0.5]]), torch.tensor([1, 1])).tolist() == [1, 0]


def test_some_layers_of_some_images(run):
    name = list(moe_layers(run.algorithm))[1][0]
    found = observe(run, envs=[1], limit=20, layers=[name], num_workers=0, batch_size=7)
    assert (len(found), list(found.layers)) == (20, [name])
    assert found.present_domains() == [1]
    everything = observe(run, envs=[1], limit=20, num_workers=0)
    np.testing.assert_array_equal(found.top_experts(name), everything.top_experts(name))


def test_images_may_come_in_any_order():
    assert sfmoe_dg.models
    torch.manual_seed(0)
    model, x = timm.create_model("sf_moe_tiny_32").eval(), torch.randn(3, 3, 32, 32)
    orders = np.array([0, 1, 2]), np.array([2, 0, 1])
    recorders = [RoutingRecorder(model, 3), RoutingRecorder(model, 3)]
    for order, recorder in zip(orders, recorders, strict=True):
        with torch.no_grad(), routing_trace(model, recorder):
            for rows in np.split(order, [2]):
                recorder.next_batch(rows)
                model(x[rows])
    for name, layer in recorders[0].layers.items():
        np.testing.assert_array_equal(layer.experts, recorders[1].layers[name].experts)
    with pytest.raises(UserError, match="saw 3 images for a batch of 1"), routing_trace(model, recorders[0]):
        model(x)


def test_a_shared_layer_has_a_name_per_call():
    model = timm.create_model("wide_net_tiny_32").eval()
    recorder = RoutingRecorder(model, 2)
    with torch.no_grad(), routing_trace(model, recorder):
        for row, x in enumerate(torch.randn(2, 1, 3, 32, 32)):
            recorder.next_batch(np.array([row]))
            model(x)
    (name,) = dict(moe_layers(model))
    calls = len(recorder.layers)
    assert calls > 1
    assert list(recorder.layers) == [name] + [f"{name}#{call}" for call in range(2, calls + 1)]


def test_what_cannot_be_observed(run, tmp_path):
    with pytest.raises(UserError, match="the splits are in, out, uda"):
        run.select(["test"])
    with pytest.raises(UserError, match="domain 4 of StyledDigits does not exist"):
        run.select(envs=[4])
    with pytest.raises(UserError, match="no image in the splits uda"):
        run.select(["uda"])
    with pytest.raises(UserError, match="give the folder of a run"):
        open_run(tmp_path)
    (tmp_path / "results.jsonl").write_text("\n")
    with pytest.raises(UserError, match="no record of a finished run"):
        open_run(tmp_path)
    dense = ALGORITHMS.load("ERM")((3, 32, 32), 10, 3, default_hparams("ERM", "StyledDigits")).eval()
    with pytest.raises(UserError, match="no mixture-of-experts layer"):
        observe(replace(run, algorithm=dense), num_workers=0, limit=2)
