"""Options that save time: the work that they skip, their effects, and the inputs that they refuse."""

import json

import numpy as np
import pytest
import torch

import sfmoe_dg.models.featurizer as featurizer
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.results.read import load_records
from sfmoe_dg.results.selection import SELECTION_METHODS, group_records, select
from sfmoe_dg.runs.spec import Options, RunSpec
from sfmoe_dg.training import model_file
from sfmoe_dg.training.loop import Stopped, StopRequest, train
from sfmoe_dg.training.pending_values import PendingValues
from sfmoe_dg.training.prepare import Execution, prepare

CPU = Execution(device="cpu", num_workers=0)
SMALL = {"batch_size": 4, "backbone": "test_resnet", "pretrained": False}
TWO_BLOCKS = {"batch_size": 4, "backbone": "vit_tiny_32"}


def spec_of(algorithm="ERM", hparams=None, **changes):
    values = {"dataset": "Debug28", "algorithm": algorithm, "steps": 5, "checkpoint_freq": 2}
    return RunSpec(**values | {"hparams": json.dumps(SMALL | (hparams or {}))} | changes)


def records(folder):
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("step_time")
        line["args"].pop("output_dir")
    return lines


class TestPendingValues:
    def test_numbers_are_read_when_they_are_asked_for(self):
        seen = PendingValues({"loss": [1.5]})
        seen.add({"loss": torch.tensor(0.1), "count": 2.0})
        seen.add({"loss": torch.tensor(0.2), "half": torch.tensor(0.25, dtype=torch.bfloat16)})
        one, two = torch.tensor(0.1).item(), torch.tensor(0.2).item()
        assert seen.numbers() == {"loss": [1.5, one, two], "count": [2.0], "half": [0.25]}
        assert seen.numbers()["loss"] == [1.5, one, two]
        assert seen.means()["loss"] == float(np.mean([1.5, one, two]))

    def test_a_graph_is_let_go(self):
        seen = PendingValues()
        weight = torch.ones((), requires_grad=True)
        seen.add({"loss": weight * 2})
        assert seen.numbers() == {"loss": [2.0]}
        json.dumps(seen.numbers())

    def test_cleared_it_knows_nothing(self):
        seen = PendingValues({"loss": [1.0]})
        seen.clear()
        assert seen.means() == {}

    def test_what_was_handed_in_stays_the_callers(self):
        given = {"loss": [1.0]}
        PendingValues(given).add({"loss": 2.0})
        assert given == {"loss": [1.0]}


class TestFastEvaluation:
    # ARM predicts from what is around an image, and evaluates everything so that nothing changes.
    @pytest.mark.parametrize("algorithm", ["ERM", "SWAD", "ARM"])
    def test_what_it_records_is_what_all_records(self, tmp_path, algorithm):
        train(spec_of(algorithm, test_envs=(0, 2)), tmp_path / "all", CPU)
        train(spec_of(algorithm, test_envs=(0, 2), options=Options(eval="fast")), tmp_path / "fast", CPU)
        whole, fast = records(tmp_path / "all"), records(tmp_path / "fast")
        assert [record["step"] for record in fast] == [0, 2, 4]
        for number, (all_of_it, record) in enumerate(zip(whole, fast, strict=True)):
            assert record.pop("options") == {"eval": "fast"}
            # Domain 1 is the only one trained on; the last step has everything.
            assert set(all_of_it) - set(record) == ({"env1_in_acc"} if number < 2 else set())
            assert record == {name: all_of_it[name] for name in record}

    def test_unneeded_images_are_not_read(self):
        setup = prepare(spec_of(options=Options(eval="fast")), CPU)
        only = {env: setup.splits[env].out for env in setup.measured_on_out_only(0)}
        # Three domains of 16 images, 3 of them in an out-split.
        counts = {0: 16, 1: 3, 2: 3}
        batches = list(setup.eval_loader.batches(0, only=only))
        assert {batch.env: len(batch.indices) for batch in batches} == counts
        assert setup.eval_loader.num_batches(only) == len(batches)
        assert setup.measured_on_out_only(setup.steps - 1) == []

    def test_selection_reads_the_same_from_both(self, tmp_path):
        for options in (Options(), Options(eval="fast")):
            for envs in ((0,), (0, 1), (0, 2), (1,), (1, 2), (2,)):
                spec = spec_of(test_envs=envs, options=options)
                train(spec, tmp_path / options.eval / spec.run_id, CPU)
        found = {}
        for name in ("all", "fast"):
            loaded = load_records(tmp_path / name)
            assert loaded.problems == []
            for record in loaded.records:
                record["args"] = record["args"] | {"output_dir": ""}
                if "options" in record:
                    assert record.pop("options") == {"eval": "fast"}
            groups = group_records(loaded.records)
            found[name] = [select(groups, method) for method in SELECTION_METHODS]
        assert all(len(chosen) == 3 for chosen in found["all"])
        assert found["fast"] == found["all"]


def test_channels_last_moves_weights_and_changes_no_name(tmp_path):
    spec = spec_of(hparams={"backbone": "mnist_cnn"}, options=Options(memory_format="channels_last"))
    setup = prepare(spec, CPU)
    weight = setup.algorithm.featurizer.network.conv2.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()
    train(spec, tmp_path / "last", CPU)
    train(spec_of(hparams={"backbone": "mnist_cnn"}), tmp_path / "plain", CPU)
    last, plain = records(tmp_path / "last"), records(tmp_path / "plain")
    assert last[0]["options"] == {"memory_format": "channels_last"}
    assert last[-1]["loss"] == pytest.approx(plain[-1]["loss"], rel=1e-3)
    one, other = model_file.load_model(tmp_path / "last"), model_file.load_model(tmp_path / "plain")
    assert list(one.state_dict()) == list(other.state_dict())


class StopAfter(StopRequest):
    def __init__(self, questions):
        self.left = questions

    @property
    def requested(self):
        self.left -= 1
        return self.left <= 0


@pytest.fixture
def without_inductor(monkeypatch):
    """Compiled as far as the graph, without a compiler for it: what this package has to do with it, in seconds."""
    featurizer._compiled.cache_clear()
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: real(function, backend="aot_eager"))
    yield
    featurizer._compiled.cache_clear()
    torch._dynamo.reset()


@pytest.mark.usefixtures("without_inductor")
class TestCompile:
    @pytest.mark.parametrize(
        "algorithm", ["ERM", *(pytest.param(name, marks=pytest.mark.slow) for name in ("MLDG", "SWAD", "Fishr"))]
    )
    def test_the_same_run_with_the_same_names(self, tmp_path, algorithm):
        plain = spec_of(algorithm, TWO_BLOCKS, steps=3)
        compiled = spec_of(algorithm, TWO_BLOCKS, steps=3, options=Options(compile="default"))
        train(plain, tmp_path / "plain", CPU)
        frames = torch._dynamo.utils.counters["frames"]["total"]
        train(compiled, tmp_path / "compiled", CPU)
        assert torch._dynamo.utils.counters["frames"]["total"] > frames
        for one, other in zip(records(tmp_path / "plain"), records(tmp_path / "compiled"), strict=True):
            assert other["options"] == {"compile": "default"}
            assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)
        models = [model_file.load_model(tmp_path / name) for name in ("plain", "compiled")]
        assert list(models[0].state_dict()) == list(models[1].state_dict())

    @pytest.mark.slow
    def test_an_interrupted_run_goes_on(self, tmp_path):
        spec = spec_of("SFMoE", {"backbone": "sf_moe_tiny_32"}, options=Options(compile="default"))
        with pytest.raises(Stopped):
            train(spec, tmp_path / "run", CPU, stop=StopAfter(6))
        train(spec, tmp_path / "run", CPU)
        train(spec, tmp_path / "whole", CPU)
        assert records(tmp_path / "run") == records(tmp_path / "whole")


def test_iga_is_not_compiled():
    with pytest.raises(UserError, match="IGA, which takes second derivatives"):
        prepare(spec_of("IGA", TWO_BLOCKS, options=Options(compile="default")), CPU)


def test_a_machine_without_compiler_is_told_so(monkeypatch):
    def no_compiler(function):
        raise RuntimeError("no working C++\ncompiler found")

    monkeypatch.setattr(torch, "compile", no_compiler)
    with pytest.raises(UserError, match=r"on this machine \(no working C\+\+ compiler found\); leave it out"):
        prepare(spec_of(options=Options(compile="default")), CPU)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["vit_tiny_32", "sf_moe_tiny_32", "mnist_cnn"])
def test_through_the_real_compiler(tmp_path, backbone):
    spec = spec_of(hparams={"backbone": backbone}, steps=3)
    train(spec, tmp_path / "plain", CPU)
    compiled = spec_of(hparams={"backbone": backbone}, steps=3, options=Options(compile="default"))
    train(compiled, tmp_path / "compiled", CPU)
    losses = [[record["loss"] for record in records(tmp_path / name)] for name in ("plain", "compiled")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
