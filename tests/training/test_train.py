"""A whole run: its files, its records, and what stays the same."""

import json
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sfmoe_dg.foundation import torch_files
from sfmoe_dg.foundation.devices import pick_device
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.runs.spec import Options, RunSpec
from sfmoe_dg.training import loop as training
from sfmoe_dg.training import model_file
from sfmoe_dg.training.loop import train
from sfmoe_dg.training.model_file import load_model
from sfmoe_dg.training.prepare import Execution, prepare

FAST = {"dataset": "Debug28", "steps": 3, "checkpoint_freq": 2, "hparams": '{"batch_size": 4}'}
CPU = Execution(device="cpu", num_workers=0)


def records(folder):
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("step_time")
        line["args"].pop("output_dir")
    return lines


@pytest.fixture
def image_folder(tmp_path):
    """Three domains x two classes x 12 pictures of random size."""
    rng = np.random.default_rng(0)
    for domain in ("art", "photo", "sketch"):
        for name in ("cat", "dog"):
            folder = tmp_path / "images" / domain / name
            folder.mkdir(parents=True)
            for i in range(12):
                pixels = rng.integers(0, 255, (rng.integers(40, 60), rng.integers(40, 60), 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "images"


def test_a_run_leaves_its_files_and_done(tmp_path):
    train(RunSpec(**FAST), tmp_path / "run", CPU)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"results.jsonl", "run.json", "progress.json", "model.pkl", "model.safetensors", "done"}
    assert (tmp_path / "run" / "done").read_text() == "done"
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["domains"] == ["0", "1", "2"]
    assert facts["test_domains"] == facts["domains"][:1]


def test_record_keys_are_upstreams(tmp_path):
    train(RunSpec(**FAST), tmp_path / "run", CPU)
    first, second = [json.loads(line) for line in (tmp_path / "run" / "results.jsonl").read_text().splitlines()]
    accuracies = {f"env{i}_{split}_acc" for i in range(3) for split in ("in", "out")}
    assert set(first) == {"step", "epoch", "step_time", "mem_gb", "loss", "hparams", "args"} | accuracies
    assert (first["step"], second["step"]) == (0, 2)  # every second step, and the last
    assert len(first["args"]) == 16
    # epoch: 2 steps / (13 in-images of the smallest domain / 4 a batch); 16 - int(16 * .2) = 13
    assert second["epoch"] == 2 / (13 / 4)
    assert (tmp_path / "run" / "results.jsonl").read_text().startswith('{"args": {"algorithm": "ERM"')


def test_accuracies_are_shares_of_their_splits(tmp_path):
    train(RunSpec(**FAST), tmp_path / "run", CPU)
    record = records(tmp_path / "run")[-1]
    for i in range(3):
        for split, size in (("in", 13), ("out", 3)):
            count = record[f"env{i}_{split}_acc"] * size
            assert count == pytest.approx(round(count), abs=1e-9)


def test_the_same_seeds_give_the_same_records_and_other_seeds_others(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(RunSpec(**FAST, seed=seed), tmp_path / name, CPU)
    assert records(tmp_path / "a") == records(tmp_path / "b")
    different = records(tmp_path / "c")
    assert [r["loss"] for r in different] != [r["loss"] for r in records(tmp_path / "a")]


def test_records_do_not_depend_on_the_number_of_workers(tmp_path, image_folder):
    hparams = json.dumps({"batch_size": 4, "backbone": "test_resnet", "pretrained": False})
    spec = RunSpec(dataset="ImageFolder", data_dir=str(image_folder), steps=2, checkpoint_freq=1, hparams=hparams)
    for workers in (0, 1, 4):
        train(spec, tmp_path / str(workers), Execution("cpu", workers))
    assert records(tmp_path / "0") == records(tmp_path / "1") == records(tmp_path / "4")
    losses = [r["loss"] for r in records(tmp_path / "0")]
    assert losses[0] != losses[1]


def test_a_finished_run_is_never_overwritten(tmp_path):
    train(RunSpec(**FAST), tmp_path / "run", CPU)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(UserError, match="holds a finished run"):
        train(RunSpec(**FAST, seed=5), tmp_path / "run", CPU)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_an_interrupted_run_starts_again_and_keeps_its_old_records_aside(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.jsonl").write_text('{"step": 0}\n{"st')
    train(RunSpec(**FAST), tmp_path / "run", CPU)
    assert [r["step"] for r in records(tmp_path / "run")] == [0, 2]
    assert (tmp_path / "run" / "results.interrupted.jsonl").read_text().endswith('{"st')


def test_a_crash_leaves_no_done_and_no_owner(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(training, "evaluate", fail)
    with pytest.raises(RuntimeError):
        train(RunSpec(**FAST), tmp_path / "run", CPU)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"run.json"}


def test_the_model_comes_back_as_it_was(tmp_path):
    spec = RunSpec(**FAST | {"hparams": '{"batch_size": 4, "backbone": "sf_moe_tiny_32"}'})
    train(spec, tmp_path / "run", CPU)
    content = torch.load(tmp_path / "run" / "model.pkl", weights_only=True)
    assert set(content) == {
        "args",
        "model_input_shape",
        "model_num_classes",
        "model_num_domains",
        "model_hparams",
        "model_dict",
    }
    model = load_model(tmp_path / "run")
    setup = prepare(spec, CPU)  # the same seed: Debug28 draws its pictures from it
    accuracies = training.evaluate(model, setup.eval_loader, setup.splits, 2)
    last = records(tmp_path / "run")[-1]
    assert accuracies == {name: last[name] for name in accuracies}


def test_checkpoints_are_kept_when_asked_for_and_skipped_when_not(tmp_path):
    train(RunSpec(**FAST, save_model_every_checkpoint=True), tmp_path / "all", CPU)
    assert {p.name for p in (tmp_path / "all").glob("*.pkl")} == {"model.pkl", "model_step0.pkl", "model_step2.pkl"}
    train(RunSpec(**FAST, skip_model_save=True, save_model_every_checkpoint=True), tmp_path / "none", CPU)
    assert not list((tmp_path / "none").glob("*.pkl"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_a_full_disk_is_said_as_such(tmp_path, monkeypatch):
    setup = prepare(RunSpec(**FAST), CPU)

    @contextmanager
    def full_disk(path):
        with open("/dev/full", "wb", buffering=0) as file:
            yield file

    monkeypatch.setattr(torch_files, "atomic_file", full_disk)
    with pytest.raises(OSError, match=r"No space left on device: '.*model\.pkl'"):
        model_file.save_model(tmp_path / "model.pkl", setup.algorithm, {})


def test_options_are_recorded_only_where_they_differ(tmp_path):
    options = Options(eval_transforms="eval", hparams_per_trial=True)
    train(RunSpec(**FAST, options=options), tmp_path / "run", CPU)
    assert records(tmp_path / "run")[-1]["options"] == {"eval_transforms": "eval"}


def test_unlabeled_splits_are_evaluated_and_numbered_as_upstream_does(tmp_path):
    spec = RunSpec(**FAST, test_envs=(2,), uda_holdout_fraction=0.5, task="domain_adaptation")
    train(spec, tmp_path / "run", CPU)
    assert "env0_uda_acc" in records(tmp_path / "run")[-1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "StyledDigit"}, "unknown data set 'StyledDigit': did you mean StyledDigits"),
        ({"algorithm": "ERMM"}, "unknown algorithm 'ERMM': did you mean ERM"),
        ({"hparams": '{"batch_size": 4, "backbone": "vit_tiny_23"}'}, "unknown backbone 'vit_tiny_23'.*vit_tiny_32"),
        ({"hparams": '{"bach_size": 3}'}, "unknown hyper-parameter 'bach_size'"),
        ({"hparams": '{"batch_size": 0}'}, "'batch_size' in hparams is 0; it must be a whole number of at least 1"),
        ({"hparams": '{"lr": NaN}'}, "finite"),
        ({"hparams": '{"batch_size": 14}'}, "13.*14|14.*13"),
        ({"test_envs": (9,)}, "9"),
        ({"test_envs": (0, 1, 2)}, "train"),
        ({"test_envs": (1, 1)}, "1"),
        ({"options": Options(split="identity")}, "identity"),
        ({"dataset": "PACS"}, "needs data_dir"),
        ({"dataset": "PACS", "data_dir": "/nowhere"}, "/nowhere"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        train(RunSpec(**FAST | changes), tmp_path / "run", CPU)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_device_that_is_not_there():
    assert pick_device("cpu").type == "cpu"
    with pytest.raises(UserError, match="device quantum is not available here"):
        pick_device("quantum")


@pytest.mark.shared_data
@pytest.mark.slow
def test_sf_moe_trains_on_real_pacs_pictures_at_224_pixels(tmp_path, shared_data):
    hparams = json.dumps({"pretrained": False, "batch_size": 2})
    spec = RunSpec(
        dataset="PACS", algorithm="SFMoE", test_envs=(3,), data_dir=str(shared_data), steps=1, hparams=hparams
    )
    setup = prepare(spec, Execution("cpu", 0))
    batches = setup.train_loader.batches(0, 1)
    values = setup.algorithm.update(next(iter(batches)).minibatches)
    setup.close()
    assert np.isfinite(list(values.values())).all()
    assert [len(d) for d in setup.dataset.domains] == [406, 468, 334, 790] or sum(
        len(d) for d in setup.dataset.domains
    ) == 1998
