"""A run's id, seed and arguments are DomainBed's."""

import argparse
import hashlib
import json
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfmoe_dg.cli.flags import run_flags, run_from_flags
from sfmoe_dg.cli.train import add_arguments
from sfmoe_dg.foundation.checked import from_mapping
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.runs.spec import Options, RunSpec


@pytest.fixture(scope="module")
def upstream_args(shared_data):
    """The args in the first record of 40 runs of DomainBed's own sweep, by folder name."""
    found = {}
    with tarfile.open(shared_data / "domainbed_records" / "vlcs_erm.tar.xz") as archive:
        for member in archive:
            if member.name.endswith("results.jsonl"):
                file = archive.extractfile(member)
                assert file is not None
                found[member.name.split("/")[-2]] = json.loads(file.readline())["args"]
    return found


@pytest.mark.shared_data
def test_folders_and_seeds_of_a_real_sweep(upstream_args):
    assert len(upstream_args) == 40
    for folder, args in upstream_args.items():
        run = RunSpec(
            dataset=args["dataset"],
            algorithm=args["algorithm"],
            test_envs=tuple(args["test_envs"]),
            data_dir=args["data_dir"],
            hparams_seed=args["hparams_seed"],
            trial_seed=args["trial_seed"],
            steps=args["steps"],
        ).with_sweep_seed()
        assert run.seed == args["seed"]
        assert run.run_id == folder


@pytest.mark.shared_data
def test_args_have_the_keys_of_a_real_record(upstream_args):
    args = next(iter(upstream_args.values()))
    ours = RunSpec().args("somewhere")
    assert list(ours) == sorted(ours)
    assert set(ours) == set(args)
    assert len(ours) == 16


def test_golden_id_without_data():
    """What upstream's Job would hash for these arguments, written out, and its md5."""
    run = RunSpec(dataset="VLCS", algorithm="ERM", data_dir="/data", test_envs=(0, 1), steps=1001).with_sweep_seed()
    text = (
        '{"algorithm": "ERM", "data_dir": "/data", "dataset": "VLCS", "holdout_fraction": 0.2, "hparams_seed": 0, '
        '"seed": 560039459, "steps": 1001, "task": "domain_generalization", "test_envs": [0, 1], "trial_seed": 0}'
    )
    assert json.dumps(run.identity(), sort_keys=True) == text
    assert run.run_id == hashlib.md5(text.encode()).hexdigest()


def test_options_change_the_id_only_where_they_differ_from_upstream():
    plain = RunSpec()
    assert RunSpec(options=Options(split="random")).run_id == plain.run_id
    assert RunSpec(options=Options(split="identity")).run_id != plain.run_id
    assert RunSpec(skip_model_save=True).run_id == plain.run_id


@given(
    envs=st.lists(st.integers(0, 5), min_size=1, max_size=2, unique=True),
    seed=st.integers(0, 2**31 - 1),
    steps=st.none() | st.integers(1, 9999),
    split=st.sampled_from(["random", "identity"]),
    hparams=st.sampled_from([None, '{"lr": 0.1}']),
    per_trial=st.booleans(),
    save=st.booleans(),
)
def test_flags_and_spec_are_inverse(envs, seed, steps, split, hparams, per_trial, save):
    run = RunSpec(
        test_envs=tuple(envs),
        seed=seed,
        steps=steps,
        hparams=hparams,
        skip_model_save=save,
        data_dir="a folder/with spaces",
        options=Options(split=split, hparams_per_trial=per_trial),
    )
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert run_from_flags(parser.parse_args(run_flags(run))) == run


def test_a_record_gives_its_run_back_and_one_of_another_program_is_refused_by_name():
    run = RunSpec(steps=5, options=Options(split="identity"))
    record = {"args": run.args("somewhere"), "options": run.options.changed()}
    assert RunSpec.from_record(record) == run
    record["args"] |= {"wandb": True, "freeze_bn": 1}
    with pytest.raises(UserError, match=r"no run of sfmoe-dg has \(freeze_bn, wandb\): a changed DomainBed wrote it"):
        RunSpec.from_record(record)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (RunSpec(steps=0), "steps is 0; it must be at least 1"),
        (RunSpec(steps=-3), "steps is -3"),
        (RunSpec(checkpoint_freq=0), "checkpoint_freq is 0"),
        (RunSpec(holdout_fraction=1.5), "holdout_fraction is 1.5"),
        (RunSpec(holdout_fraction=float("nan")), "holdout_fraction is nan"),
        (RunSpec(task="dg"), "task is 'dg'; allowed: domain_generalization, domain_adaptation"),
        (RunSpec(task="domain_adaptation"), "set uda_holdout_fraction"),
        (RunSpec(seed=-1), "seed is -1"),
        (RunSpec(options=Options(split="half")), "split is 'half'; allowed: random, identity"),
    ],
)
def test_impossible_values(run, message):
    with pytest.raises(UserError, match=message):
        run.check()


def test_options_from_names():
    assert from_mapping(Options, {"split": "identity"}, "x").changed() == {"split": "identity"}
    with pytest.raises(UserError, match="unknown key 'spilt' in x: did you mean split"):
        from_mapping(Options, {"spilt": "identity"}, "x")
