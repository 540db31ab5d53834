"""An interrupted run resumes with the records, weights and random numbers of one that was not interrupted.

``tests/training/test_kills.py`` does the same to real processes with real signals.
"""

import json
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_twins import PRESETS

import sfmoe_dg
from sfmoe_dg.algorithms.registry import ALGORITHMS
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.runs.folder import CHECKPOINT
from sfmoe_dg.runs.spec import Options, RunSpec
from sfmoe_dg.training import loop as training
from sfmoe_dg.training.checkpoint import Random, capture, restore
from sfmoe_dg.training.evaluate import evaluate
from sfmoe_dg.training.loop import Stopped, StopRequest, train
from sfmoe_dg.training.model_file import load_model
from sfmoe_dg.training.prepare import Execution, prepare

CPU = Execution(device="cpu", num_workers=0)
SETTINGS = {
    "LPFT": {"linear_steps": 2},
    "ERMPlusPlus": {"linear_steps": 2},
    "SMA": {"sma_start_iter": 2},
    "SWAD": {"swad_n_converge": 2, "swad_n_tolerance": 2},
}


class StopAfter(StopRequest):
    """Asks to stop at the given question, counted from 1: training asks after every step and evaluated batch."""

    def __init__(self, question):
        self.left = question

    @property
    def requested(self):
        self.left -= 1
        return self.left <= 0


def spec_of(algorithm, **changes):
    backbone = PRESETS.get(algorithm, "test_resnet")
    hparams = {"batch_size": 2, "backbone": backbone, "pretrained": False, **SETTINGS.get(algorithm, {})}
    values = {"dataset": "Debug28", "algorithm": algorithm, "steps": 5, "checkpoint_freq": 2}
    return RunSpec(**values | {"hparams": json.dumps(hparams)} | changes)


def interrupted(spec, folder, questions, execution=CPU):
    """Train with a stop at each of ``questions`` in turn; returns how often it was stopped."""
    stops = 0
    for question in [*questions, None]:
        # Whoever starts it again: another process, whose generators stand elsewhere.
        torch.manual_seed(99), np.random.seed(99), random.seed(99)
        try:
            train(spec, folder, execution, stop=None if question is None else StopAfter(question))
        except Stopped:
            stops += 1
        else:
            return stops
    return stops


def records(folder):
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("step_time")
        line["args"].pop("output_dir")
    return lines


def assert_same_run(one, other):
    assert records(one) == records(other)
    first, second = load_model(one).state_dict(), load_model(other).state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in other.iterdir())


@pytest.mark.parametrize("algorithm", list(ALGORITHMS))
def test_every_algorithm_goes_on_as_if_nothing_had_happened(tmp_path, algorithm):
    spec = spec_of(algorithm)
    train(spec, tmp_path / "whole", CPU)
    after = torch.rand(1), np.random.rand(), random.random()
    assert interrupted(spec, tmp_path / "parts", [6, 3]) == 2
    assert (torch.rand(1), np.random.rand(), random.random()) == after
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("question", range(1, 21))
def test_wherever_it_is_stopped(tmp_path, question, whole_swad_run):
    # 5 steps, and 3 evaluations of 3 batches for the accuracies and 2 for SWAD's validation loss: every one of them.
    stops = interrupted(spec_of("SWAD"), tmp_path / "parts", [question])
    assert stops == 1
    assert_same_run(whole_swad_run, tmp_path / "parts")


@pytest.fixture(scope="module")
def whole_swad_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("swad") / "whole"
    train(spec_of("SWAD"), folder, CPU)
    return folder


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_in_half_precision(tmp_path, precision):
    spec = spec_of("SFMoE", options=Options(precision=precision))
    train(spec, tmp_path / "whole", CPU)
    interrupted(spec, tmp_path / "parts", [4])
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_with_augmentation_workers_and_unlabeled_images(tmp_path):
    rng = np.random.default_rng(0)
    for domain in ("art", "photo", "sketch"):
        for name in ("cat", "dog"):
            folder = tmp_path / "images" / domain / name
            folder.mkdir(parents=True)
            for i in range(6):
                Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    spec = RunSpec(
        dataset="ImageFolder",
        data_dir=str(tmp_path / "images"),
        task="domain_adaptation",
        uda_holdout_fraction=0.5,
        steps=4,
        checkpoint_freq=2,
        hparams='{"batch_size": 2, "backbone": "test_resnet", "pretrained": false}',
    )
    train(spec, tmp_path / "whole", Execution(device="cpu", num_workers=0))
    interrupted(spec, tmp_path / "parts", [3, 4], Execution(device="cpu", num_workers=1))
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_what_is_saved_is_plain_and_whole():
    setup = prepare(spec_of("SWAD"), CPU)
    saved = capture(setup.algorithm)
    assert saved["attributes"][""]["optimizer"][0] == "state"
    assert saved["attributes"][""]["valley"][0] == "object"
    assert "hparams" in saved["attributes"][""]


class Odd(torch.nn.Module):
    """Attributes of every kind that an objective might keep."""

    def __init__(self, fill):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)
        self.count, self.name, self.nothing = fill, f"x{fill}", None
        self.table = {"a": [torch.full((2,), float(fill)), fill], 3: {"deep": np.full(2, fill)}}
        self.pair = (fill, torch.tensor(fill))
        self.generator = torch.Generator().manual_seed(fill)
        self.state = np.float64(fill)
        self.hidden = {"layer": self.layer}
        self.function = len
        self.optimizer = torch.optim.Adam(self.parameters(), lr=float(fill))
        self.register_buffer("scratch", torch.tensor([float(fill)]), persistent=False)
        self.layer.bias.requires_grad_(fill == 2)


def test_attributes_of_every_kind_come_back(tmp_path):
    one, two = Odd(1), Odd(2)
    one.generator.manual_seed(5)
    torch.save(capture(one), tmp_path / "state.pt")
    restore(two, torch.load(tmp_path / "state.pt", weights_only=True))
    assert (two.count, two.name, two.nothing, two.state) == (1, "x1", None, 1.0)
    assert torch.equal(two.table["a"][0], torch.ones(2))
    assert two.table["a"][1] == 1
    assert two.table[3]["deep"].tolist() == [1, 1]
    assert two.pair[0] == 1
    assert two.pair[1].item() == 1
    assert torch.equal(two.layer.weight, one.layer.weight)
    assert two.hidden["layer"] is two.layer
    assert two.function is len
    assert two.optimizer.param_groups[0]["lr"] == 1.0
    assert torch.equal(torch.rand(3, generator=two.generator), torch.rand(3, generator=one.generator))
    assert two.scratch.item() == 1
    assert not two.layer.bias.requires_grad


def test_what_has_no_form_is_refused_by_name():
    thing = Odd(1)
    thing.stream = iter([1, 2])
    with pytest.raises(TypeError, match=r"\.stream is a list_iterator, which cannot be saved"):
        capture(thing)


def test_random_states_come_back():
    device = torch.device("cpu")
    states = Random.now(device)
    drawn = torch.rand(2).tolist(), np.random.rand(), random.random()
    states.restore(device)
    assert (torch.rand(2).tolist(), np.random.rand(), random.random()) == drawn


# ------------------------------------------------------------------------------- checkpoints that cannot be used


def stopped_run(tmp_path, spec):
    with pytest.raises(Stopped):
        train(spec, tmp_path / "run", CPU, stop=StopAfter(7))
    return tmp_path / "run"


class Listener:
    """A reporter that keeps where the run began and what it was told."""

    def started(self, setup, step, notice):
        self.step, self.notice = step, notice

    def __getattr__(self, name):
        return lambda *_: None


def test_a_stopped_run_says_where_it_goes_on(tmp_path):
    folder = stopped_run(tmp_path, spec_of("ERM"))
    assert not list(folder.glob("lease*"))
    assert json.loads((folder / "progress.json").read_text())["steps"] == 5
    step = torch.load(folder / CHECKPOINT, weights_only=True)["position"]["step"]
    assert 0 < step < 4
    listener = Listener()
    train(spec_of("ERM"), folder, CPU, reporter=listener)
    assert (listener.step, listener.notice) == (step + 1, f"goes on after step {step}")


def test_an_evaluation_that_was_due_is_no_step(tmp_path, monkeypatch):
    """It belongs to a step of the start before: a speed is not known before the first step, nor slowed by it later."""
    folder = tmp_path / "run"
    spec = spec_of("ERM", checkpoint_freq=5)
    with pytest.raises(Stopped):  # in the evaluation after step 0
        train(spec, folder, CPU, stop=StopAfter(2))
    now, noted = [0.0], []

    def evaluate_for_an_hour(*args, **kwargs):
        now[0] += 3600
        return evaluate(*args, **kwargs)

    def note(folder, progress):
        noted.append((progress.step, progress.seconds_per_step))

    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: now[0], time=lambda: now[0]))
    monkeypatch.setattr(training, "evaluate", evaluate_for_an_hour)
    monkeypatch.setattr(training, "write_progress", note)
    train(spec, folder, CPU)
    # Steps 1 to 4 take no time, and then the last evaluation takes an hour: 3600 s / 4.
    assert noted[-1] == (4, 900)
    assert [step for step, _ in noted if step < 1] == []


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    folder = stopped_run(tmp_path, spec_of("ERM"))
    with pytest.raises(UserError, match=r"interrupted run of another kind \(algorithm 'ERM' there, 'CORAL' here"):
        train(spec_of("CORAL"), folder, CPU)
    with pytest.raises(UserError, match=r"\(steps 5 there, 9 here\); choose another output_dir"):
        train(spec_of("ERM", steps=9), folder, CPU)


@pytest.mark.parametrize("damage", ["cut", "garbage", "another version", "records lost"])
def test_a_checkpoint_that_cannot_be_used_is_said_and_the_run_begins_anew(tmp_path, damage):
    train(spec_of("ERM"), tmp_path / "whole", CPU)
    folder = stopped_run(tmp_path, spec_of("ERM"))
    path = folder / CHECKPOINT
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1000])
    elif damage == "garbage":
        path.write_bytes(b"no checkpoint")
    elif damage == "another version":
        # Whose run and position look familiar, and whose algorithm does not.
        torch.save(torch.load(path, weights_only=True) | {"format": 0, "algorithm": {}}, path)
    else:
        (folder / "results.jsonl").write_text("")
    listener = Listener()
    train(spec_of("ERM"), folder, CPU, reporter=listener)
    assert listener.step == 0
    assert "the run begins anew" in listener.notice
    assert "\n" not in listener.notice
    assert records(folder) == records(tmp_path / "whole")


def test_a_record_that_was_cut_short_is_made_again(tmp_path):
    train(spec_of("ERM"), tmp_path / "whole", CPU)
    folder = stopped_run(tmp_path, spec_of("ERM"))
    with (folder / "results.jsonl").open("ab") as file:
        file.write(b'{"step": 2, "env0')
    (folder / ".checkpoint.pt.123.abc.tmp").write_bytes(b"half a checkpoint")
    train(spec_of("ERM"), folder, CPU)
    assert_same_run(tmp_path / "whole", folder)


# --------------------------------------------------------------------------------------------- a finished run


def test_a_finished_run_is_loaded_with_its_transform_and_names(tmp_path):
    spec = spec_of("WideNet")
    train(spec, tmp_path / "run", CPU)
    trained = sfmoe_dg.load(tmp_path / "run")
    assert trained.domain_names == ("0", "1", "2")
    assert trained.test_domains == ("0",)
    assert len(trained.class_names) == 2
    assert not trained.algorithm.training
    picture = trained.transform(Image.new("RGB", (50, 40), "white"))
    size = trained.algorithm.input_shape[-1]
    assert picture.shape == (3, size, size)
    x = torch.rand(2, *trained.algorithm.input_shape)
    before = trained.algorithm.predict(x)
    (tmp_path / "run" / "model.safetensors").unlink()  # DomainBed's file alone
    assert torch.equal(load_model(tmp_path / "run").predict(x), before)


@pytest.mark.parametrize("name", ["model.safetensors", "model.pkl"])
def test_a_damaged_model_is_said(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80\x02 no model")
    with pytest.raises(UserError, match=f"{name} cannot be read as a model"):
        load_model(tmp_path)
