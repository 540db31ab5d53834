"""Ours in DomainBed's commands: the runner, what is added to its modules, and the adapters."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sfmoe_dg.algorithms.registry import ALGORITHMS, default_hparams, random_hparams
from sfmoe_dg.compat.domainbed.adapters import adapt, dataset_class, renormalization
from sfmoe_dg.compat.domainbed.ours_in_domainbed import add_hparams, new_names
from sfmoe_dg.compat.domainbed.runner import CHECKOUT_VARIABLE, SHIM, command, environment
from sfmoe_dg.data.batches.transforms import IMAGENET_MEAN, IMAGENET_STD
from sfmoe_dg.data.build import build_dataset
from sfmoe_dg.data.catalog import CATALOG
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.results.read import load_records
from sfmoe_dg.runs.spec import Options, RunSpec
from sfmoe_dg.training.loop import train
from sfmoe_dg.training.prepare import Execution

TINY = '{"batch_size": 2, "backbone": "sf_moe_tiny_32"}'


def domainbed(checkout: Path | str, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    start = [sys.executable, "-m", "sfmoe_dg", "domainbed", "--checkout", str(checkout), "--"]
    return subprocess.run([*start, *words], capture_output=True, text=True, cwd=cwd)


class TestRunner:
    def test_the_command_line_is_this_interpreters(self, checkout):
        words = ["domainbed.scripts.train", "--algorithm", "SFMoE"]
        assert command(str(checkout), words) == [sys.executable, "-m", *words]

    def test_the_environment_puts_the_shim_and_this_python_first(self, checkout):
        values = environment(str(checkout), {"PATH": "/bin", "PYTHONPATH": "/mine", "HOME": "/home/me"})
        assert values["PYTHONPATH"].split(os.pathsep) == [str(SHIM), "/mine"]
        assert values["PATH"].split(os.pathsep) == [str(Path(sys.executable).parent), "/bin"]
        assert values[CHECKOUT_VARIABLE] == str((checkout / "domainbed").resolve())
        assert values["HOME"] == "/home/me"

    @pytest.mark.parametrize("words", [[], ["nonsense"], ["domainbed.scripts.nonsense"], ["os"]])
    def test_what_is_no_command_lists_those_there_are(self, checkout, words):
        with pytest.raises(UserError, match=r"domainbed\.scripts\.fail, domainbed\.scripts\.train$"):
            command(str(checkout), words)

    def test_the_shim_is_there(self):
        assert (SHIM / "domainbed" / "__init__.py").is_file()


class TestInAMiniature:
    def test_ours_train_there_and_in_the_processes_that_it_starts(self, checkout):
        result = domainbed(checkout, "domainbed.scripts.train", "SFMoE", "StyledDigits", TINY, "again")
        assert result.returncode == 0, result.stderr
        here, there = (json.loads(line) for line in result.stdout.splitlines())
        assert here == there
        assert here["losses"][0] != here["losses"][1]
        assert here["algorithms"][:3] == ["Plain", "Needy", "OnGpu"]
        assert {"SFMoE", "MIRO", "LPFT"} < set(here["algorithms"])
        assert "SWAD" not in here["algorithms"]
        assert {"Theirs", "StyledDigits", "CUBDG"} < set(here["datasets"])
        # The name is torchvision's there.
        assert "ImageFolder" not in here["datasets"]

    @pytest.mark.slow
    @pytest.mark.skipif(sys.version_info < (3, 11), reason="refused there: Python looks into the folder first")
    def test_the_working_directory_may_be_the_checkout(self, checkout):
        result = domainbed(checkout, "domainbed.scripts.train", "Plain", "StyledDigits", "{}", cwd=checkout)
        assert result.returncode == 0, result.stderr
        assert "SFMoE" in json.loads(result.stdout)["algorithms"]

    def test_the_exit_code_is_the_commands(self, checkout):
        assert domainbed(checkout, "domainbed.scripts.fail").returncode == 7

    @pytest.mark.slow
    def test_what_cannot_train_there_ends_with_a_sentence(self, checkout):
        result = domainbed(checkout, "domainbed.scripts.train", "SWAD", "StyledDigits", "{}")
        assert result.returncode == 1
        assert "SWAD needs the validation loss at every evaluation" in result.stderr.splitlines()[-1]

    def test_a_name_that_the_checkout_has_stays_its_own(self, checkout):
        path = checkout / "domainbed" / "algorithms.py"
        assert "SFMoE" in new_names(path.parent)
        path.write_text(path.read_text().replace('"Needy"', '"SFMoE"'))
        assert "SFMoE" not in new_names(path.parent)
        assert "SWAD" in new_names(path.parent)

    def test_hparams_of_a_name_are_those_of_whose_it_is(self):
        theirs = SimpleNamespace(default_hparams=lambda *_: {"a": 1}, random_hparams=lambda *_: {"a": 2})
        add_hparams(theirs, ["SFMoE"])
        assert theirs.default_hparams("Plain", "PACS") == {"a": 1}
        assert theirs.random_hparams("Plain", "PACS", 5) == {"a": 2}
        # The learning rate of SF-MoE on PACS, June 2022.
        assert theirs.default_hparams("SFMoE", "PACS")["lr"] == 3e-5
        assert theirs.random_hparams("SFMoE", "PACS", 5) == random_hparams("SFMoE", "PACS", 5)


def build(name: str, shape: tuple[int, int, int] = (3, 32, 32), domains: int = 3, **hparams):
    return adapt(name)(shape, 10, domains, default_hparams(name, "StyledDigits") | hparams)


class TestAdapters:
    def test_warm_up_counts_the_updates_itself(self):
        algorithm = build("ERM", warmup_steps=3, lr=0.4, batch_size=2)
        batches = [(torch.rand(2, 3, 32, 32), torch.tensor([0, 1]))] * 3
        rates = []
        for _ in range(5):
            algorithm.update(batches, None)
            rates.append(algorithm.optimizer.param_groups[0]["lr"])
        assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])

    def test_unlabeled_pictures_are_normalised_like_the_others(self, monkeypatch):
        seen = []

        def update(self, minibatches, unlabeled=None):
            seen.append(([x.item() for x, _ in minibatches], unlabeled and [x.item() for x in unlabeled]))
            return {}

        algorithm = build("ERM", batch_size=1)
        algorithm._renormalize = torch.tensor(2.0), torch.tensor(1.0)
        monkeypatch.setattr(ALGORITHMS.load("ERM"), "update", update)
        batches = [(torch.tensor(10.0), torch.tensor(0))]
        algorithm.update(batches, [torch.tensor(20.0), torch.tensor(30.0)])
        algorithm.update(batches)
        # Twice the value, and one.
        assert seen == [([21], [41, 61]), ([21], None)]

    @pytest.mark.parametrize(
        ("name", "hparams", "sentence"),
        [
            ("SWAD", {}, "SWAD needs the validation loss"),
            ("SFMoE", {"lr_schedule": "cosine"}, "'cosine' needs to know the number of steps"),
            ("SFMoE", {"num_expert": 3}, "unknown hyper-parameter 'num_expert' in DomainBed's --hparams"),
            ("SFMoE", {"batch_size": 0}, "'batch_size' in DomainBed's --hparams is 0"),
            ("CondMoE", {"routing_level": "attribute"}, "needs descriptions of the domains"),
            ("MLDG", {"domains": 1}, "MLDG needs at least 2 training domains"),
        ],
    )
    def test_what_cannot_work_is_refused_in_a_sentence(self, name, hparams, sentence):
        with pytest.raises(UserError, match=sentence):
            build(name, **hparams)

    def test_pictures_are_normalised_as_the_backbone_wants(self):
        class Backbone(torch.nn.Module):
            input_shape = (3, 224, 224)
            normalization = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))

        scale, shift = renormalization(Backbone())
        pixel = torch.tensor([0.1, 0.6, 1.0]).view(3, 1, 1)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        # (0.1 - 0.5) / 0.25 = -1.6, (0.6 - 0.5) / 0.25 = 0.4, (1 - 0.5) / 0.25 = 2.
        assert ((pixel - mean) / std * scale + shift).flatten().tolist() == pytest.approx([-1.6, 0.4, 2.0], abs=1e-6)
        Backbone.input_shape = (3, 32, 32)
        assert renormalization(Backbone()) is None

    def test_a_data_set_of_ours_is_one_of_theirs(self):
        class Base:
            N_WORKERS = 8

        entry = CATALOG.load("StyledDigits")
        digits = dataset_class(entry, Base)
        assert (digits.__name__, digits.N_STEPS, digits.CHECKPOINT_FREQ) == ("StyledDigits", 1001, 100)
        assert list(entry.labels) == digits.ENVIRONMENTS
        made, ours = digits(None, [0], {"data_augmentation": True}), build_dataset("StyledDigits")
        assert (made.input_shape, made.num_classes, made.N_WORKERS) == ((3, 32, 32), 10, 0)
        assert [len(env) for env in made.datasets] == [len(domain) for domain in ours]
        x, y = made.datasets[2][5]
        assert y == ours[2].targets[5]
        assert torch.equal(x, ours[2].batch([5])[0])

    def test_pictures_in_files_are_augmented_only_where_trained_on(self, shared_data):
        class Base:
            N_WORKERS = 8

        made = dataset_class(CATALOG.load("PACS"), Base)(str(shared_data), [0], {"data_augmentation": True})
        assert made.N_WORKERS == 8
        assert torch.equal(made.datasets[0][3][0], made.datasets[0][3][0])
        assert not torch.equal(made.datasets[1][3][0], made.datasets[1][3][0])
        assert made.datasets[1][3][0].shape == (3, 224, 224)


def test_domainbed_itself_trains_sf_moe(upstream, tmp_path):
    flags = [
        "--dataset",
        "StyledDigits",
        "--algorithm",
        "SFMoE",
        "--steps",
        "2",
        "--hparams",
        TINY,
        "--hparams_seed",
        "5",
    ]
    result = domainbed(upstream, "domainbed.scripts.train", *flags, "--output_dir", str(tmp_path / "run"))
    assert result.returncode == 0, result.stderr
    records = load_records(tmp_path).records
    assert [record["step"] for record in records] == [0, 1]
    assert records[0]["hparams"]["backbone"] == "sf_moe_tiny_32"
    table = domainbed(upstream, "domainbed.scripts.collect_results", "--input_dir", str(tmp_path))
    assert "SFMoE" in table.stdout, table.stderr


def test_domainbed_collects_fast_evaluations(upstream, tmp_path):
    """None of its selection methods looks at what ``--eval fast`` leaves out."""
    hparams = json.dumps({"batch_size": 2, "backbone": "mnist_cnn"})
    tables = []
    for name in ("all", "fast"):
        for env in range(3):
            options = Options(eval=name)
            spec = RunSpec("Debug28", test_envs=(env,), hparams=hparams, steps=3, checkpoint_freq=1, options=options)
            train(spec, tmp_path / name / str(env), Execution("cpu", 0))
        table = domainbed(upstream, "domainbed.scripts.collect_results", "--input_dir", str(tmp_path / name))
        assert "test-domain validation set (oracle)" in table.stdout, table.stderr
        tables.append([line for line in table.stdout.splitlines() if "ERM" in line])
    assert tables[0]
    assert tables[0] == tables[1]
