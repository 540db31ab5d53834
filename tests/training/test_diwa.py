"""DiWA: the choice of runs, the mean of their weights, and a result that is a run like any other."""

import json
import shutil

import pytest
import torch

from sfmoe_dg.algorithms.shared.averages import tensors
from sfmoe_dg.cli.main import main
from sfmoe_dg.data.batches.device_augment import TensorTransform
from sfmoe_dg.data.batches.loaders import EvalLoader
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.runs import lease
from sfmoe_dg.runs.folder import RunFolder
from sfmoe_dg.runs.spec import Options, RunSpec
from sfmoe_dg.training import diwa
from sfmoe_dg.training.diwa import find_members, make_soup
from sfmoe_dg.training.loop import train
from sfmoe_dg.training.model_file import load_model, save_trained
from sfmoe_dg.training.prepare import Execution

CPU = Execution(device="cpu", num_workers=0)


def run(folder, seed=0, backbone="mnist_cnn", **fields):
    hparams = json.dumps({"batch_size": 4, "backbone": backbone})
    train(RunSpec(dataset="Debug28", steps=2, checkpoint_freq=1, hparams=hparams, seed=seed, **fields), folder, CPU)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Three runs that belong together, and one each of another trial, another test domain and without its model."""
    root = tmp_path_factory.mktemp("sweep")
    for seed in range(3):
        run(root / f"run{seed}", seed)
    run(root / "trial", trial_seed=1)
    run(root / "domain", test_envs=(1,))
    run(root / "modelless", skip_model_save=True)
    return root


def test_members_are_the_finished_runs_of_one_trial(sweep):
    members, left_out = find_members(sweep, "Debug28", "ERM", 0, 0)
    assert sorted(member.folder.name for member in members) == ["run0", "run1", "run2"]
    assert [m.val_acc for m in members] == sorted((m.val_acc for m in members), reverse=True)
    assert len(left_out) == 1
    assert "modelless has no model, neither model.safetensors nor model.pkl; it is left out" in left_out[0]


def test_a_run_that_has_kept_only_its_tensors_is_a_member(sweep, tmp_path):
    for seed in range(2):
        shutil.copytree(sweep / f"run{seed}", tmp_path / f"run{seed}")
        (tmp_path / f"run{seed}" / "model.pkl").unlink()
    members, left_out = find_members(tmp_path, "Debug28", "ERM", 0, 0)
    assert sorted(member.folder.name for member in members) == ["run0", "run1"]
    assert left_out == []
    assert len(make_soup(members, "uniform", tmp_path / "soup", CPU).members) == 2


def test_why_runs_are_left_out_is_said(sweep, tmp_path):
    shutil.copytree(sweep / "run0", tmp_path / "run0")
    shutil.copytree(sweep / "modelless", tmp_path / "run1")
    (tmp_path / "run0" / "done").unlink()
    with pytest.raises(UserError, match=r"no finished run with a model .*run0 is not finished; it is left out"):
        find_members(tmp_path, "Debug28", "ERM", 0, 0)


def test_folders_without_runs_are_refused_without_reading_all_records(sweep, tmp_path, monkeypatch):
    for folder, message in [
        (tmp_path / "none", "none does not exist; give the folder that holds one sub-folder per run"),
        (tmp_path, "no records in"),
        (sweep / "run0", "is the folder of one run; give the folder above it"),
    ]:
        with pytest.raises(UserError, match=message):
            find_members(folder, "Debug28", "ERM", 0, 0)
    read = []
    monkeypatch.setattr("sfmoe_dg.results.read.read_results", read.append)
    find_members(sweep, "Debug28", "ERM", 0, 0)
    assert read == []


def test_no_member_is_said(sweep):
    with pytest.raises(UserError, match="no finished run with a model"):
        find_members(sweep, "Debug28", "CORAL", 0, 0)


def copied(run_folder, folder, args=(), **others):
    """A copy of a run whose records have these arguments and keys."""
    shutil.copytree(run_folder, folder)
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    changed = [line | others | {"args": line["args"] | dict(args)} for line in lines]
    (folder / "results.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in changed))
    return folder


@pytest.mark.parametrize(
    ("args", "others", "named"),
    [
        ({"holdout_fraction": 0.3}, {}, r"holdout_fraction \(0.2, 0.3\)"),
        ({"uda_holdout_fraction": 0.5}, {}, r"uda_holdout_fraction \(0, 0.5\)"),
        ({"task": "domain_adaptation"}, {}, r"task \(domain_adaptation, domain_generalization\)"),
        ({}, {"options": {"eval_transforms": "eval"}}, r"options \(\[eval_transforms=eval\], none\)"),
    ],
)
def test_runs_of_other_splits_or_options_are_not_averaged(sweep, tmp_path, args, others, named):
    for seed in range(2):
        copied(sweep / f"run{seed}", tmp_path / f"run{seed}")
    assert len(find_members(tmp_path, "Debug28", "ERM", 0, 0)[0]) == 2
    copied(sweep / "run2", tmp_path / "run2", args, **others)
    with pytest.raises(UserError, match=f"differ in {named}; put"):
        find_members(tmp_path, "Debug28", "ERM", 0, 0)


def test_an_unknown_kind_is_said(sweep, tmp_path):
    members, _ = find_members(sweep, "Debug28", "ERM", 0, 0)
    with pytest.raises(UserError, match="unknown soup 'unifrom': did you mean uniform"):
        make_soup(members, "unifrom", tmp_path / "soup", CPU)


@pytest.mark.parametrize("name", ["results.jsonl", "checkpoint.pt"])
def test_an_unfinished_run_is_not_written_into(sweep, tmp_path, name):
    members, _ = find_members(sweep, "Debug28", "ERM", 0, 0)
    (tmp_path / name).write_text("begun")
    with pytest.raises(UserError, match=f"not finished \\({name}\\)"):
        make_soup(members, "uniform", tmp_path, CPU)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_running_run_is_not_written_into(sweep, tmp_path):
    members, _ = find_members(sweep, "Debug28", "ERM", 0, 0)
    with lease.acquire(tmp_path), pytest.raises(UserError, match="is being trained by"):
        make_soup(members, "uniform", tmp_path, CPU)
    assert not list(tmp_path.iterdir())


def test_a_soup_that_is_cut_off_is_no_run_with_records(sweep, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(diwa, "save_trained", full)
    members, _ = find_members(sweep, "Debug28", "ERM", 0, 0)
    with pytest.raises(OSError, match="No space"):
        make_soup(members, "uniform", tmp_path / "soup", CPU)
    assert not (tmp_path / "soup" / "results.jsonl").exists()


@pytest.mark.parametrize("kind", ["uniform", "restricted"])
@pytest.mark.parametrize("backbone", ["mnist_cnn", "sf_moe_tiny_32"])
def test_a_diverged_member_is_named(tmp_path, kind, backbone):
    for seed in range(2):
        run(tmp_path / f"run{seed}", seed, backbone)
    model = load_model(tmp_path / "run1")
    with torch.no_grad():
        next(model.network.parameters()).fill_(float("nan"))
    save_trained(RunFolder(tmp_path / "run1"), model, {"algorithm": "ERM"})
    members, _ = find_members(tmp_path, "Debug28", "ERM", 0, 0)
    with pytest.raises(UserError, match="run1 diverged: featurizer"):
        make_soup(members, kind, tmp_path / "soup", CPU)


def test_a_uniform_soup_is_the_mean_of_all(sweep, tmp_path):
    members, _ = find_members(sweep, "Debug28", "ERM", 0, 0)
    soup = make_soup(members, "uniform", tmp_path / "soup", CPU)
    models = [tensors(load_model(sweep / f"run{seed}")) for seed in range(3)]
    for name, value in tensors(load_model(tmp_path / "soup")).items():
        assert torch.allclose(value, torch.stack([model[name] for model in models]).mean(0), atol=1e-6), name
    assert len(soup.members) == 3


def test_a_restricted_soup_keeps_what_does_not_hurt(sweep, tmp_path):
    members, _ = find_members(sweep, "Debug28", "ERM", 0, 0)
    told = []
    soup = make_soup(members, "restricted", tmp_path / "soup", CPU, tell=told.append)
    assert len(told) == 3
    assert told[0].startswith("kept")
    assert len(soup.members) == sum(line.startswith("kept") for line in told)
    # Whatever came after the last one kept left no trace.
    kept = [tensors(load_model(member.folder)) for member in soup.members]
    for name, value in tensors(soup.algorithm).items():
        assert torch.allclose(value, torch.stack([model[name] for model in kept]).mean(0), atol=1e-6), name


def test_a_restricted_soup_reads_images_as_its_runs_do(tmp_path, monkeypatch):
    for seed in range(2):
        run(tmp_path / f"run{seed}", seed, options=Options(images="tensors"))
    read = []
    original = EvalLoader.__init__

    def noted(self, dataset, splits, transforms, **settings):
        read.append((settings, transforms))
        original(self, dataset, splits, transforms, **settings)

    monkeypatch.setattr(EvalLoader, "__init__", noted)
    members, _ = find_members(tmp_path, "Debug28", "ERM", 0, 0)
    make_soup(members, "restricted", tmp_path / "soup", Execution(device="cpu", num_workers=0, eval_batch_size=7))
    (evaluation, augmented), (validation, clean) = read
    assert validation == evaluation
    assert validation["batch_size"] == 7
    assert {type(transform) for transform in (*augmented, *clean)} == {TensorTransform}
    assert not any(transform.augment for transform in clean)


def test_experts_are_matched_before_they_are_averaged(tmp_path):
    for seed in range(2):
        run(tmp_path / f"run{seed}", seed, "sf_moe_tiny_32", algorithm="SFMoE")
    members, _ = find_members(tmp_path, "Debug28", "SFMoE", 0, 0)
    soup = make_soup(members, "uniform", tmp_path / "soup", CPU)
    router = next(name for name in tensors(soup.algorithm) if "router" in name)
    first = tensors(load_model(members[0].folder))[router]
    second = tensors(load_model(members[1].folder))[router]
    mean = tensors(soup.algorithm)[router]
    # Every row is the mean of the first's and of some row of the second's.
    found = [int((2 * mean[e] - first[e] - second).abs().amax(1).argmin()) for e in range(len(first))]
    assert sorted(found) == list(range(len(first)))


def test_models_of_other_shapes_are_refused(sweep, tmp_path):
    run(tmp_path / "other", 0, "vit_tiny_32")
    members, _ = find_members(sweep, "Debug28", "ERM", 0, 0)
    others, _ = find_members(tmp_path, "Debug28", "ERM", 0, 0)
    with pytest.raises(UserError, match="differ in shape"):
        make_soup([*members, *others], "uniform", tmp_path / "soup", CPU)


def test_the_command_writes_a_run_that_the_tables_read(sweep, tmp_path, capsys):
    flags = ["--input_dir", str(sweep), "--dataset", "Debug28", "--algorithm", "ERM", "--test_env", "0"]
    out = tmp_path / "soups" / "one"
    assert main(["diwa", *flags, "--output_dir", str(out), "--device", "cpu", "--num_workers", "0"]) == 0
    printed = capsys.readouterr()
    assert "3 runs" in printed.out
    assert "modelless" in printed.err
    assert {path.name for path in out.iterdir()} == {
        "results.jsonl",
        "run.json",
        "model.pkl",
        "model.safetensors",
        "done",
    }
    assert json.loads((out / "run.json").read_text())["soup"]
    assert main(["collect", "--input_dir", str(tmp_path / "soups")]) == 0
    assert "DiWA(ERM)" in capsys.readouterr().out
    assert main(["diwa", *flags, "--output_dir", str(out), "--device", "cpu"]) == 2
