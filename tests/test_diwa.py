"""DiWA: which runs go in, that the mean is the mean, and that the result is a run like any other."""

import json

import pytest
import torch

from sfmoe_dg.checkpoint import load_model
from sfmoe_dg.cli import main
from sfmoe_dg.diwa import find_members, make_soup
from sfmoe_dg.errors import UserError
from sfmoe_dg.prepare import Execution
from sfmoe_dg.run import RunSpec
from sfmoe_dg.train import train
from sfmoe_dg.weight_average import tensors

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
    assert "modelless has no model.pkl" in left_out[0]


def test_no_member_is_said(sweep):
    with pytest.raises(UserError, match="no finished run with a model"):
        find_members(sweep, "Debug28", "CORAL", 0, 0)


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
