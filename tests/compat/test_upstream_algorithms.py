"""DomainBed's algorithms in our commands: the plug-in, the draws, the wrappers, from a run to its tables."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from checkouts import write_checkout

from sfmoe_dg.algorithms.registry import ALGORITHMS, default_hparams, random_hparams
from sfmoe_dg.algorithms.shared.precision import Precision
from sfmoe_dg.cli.main import main
from sfmoe_dg.compat.domainbed.checkout import PACKAGE, find_package, open_package
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.plugins import load_plugins
from sfmoe_dg.runs.hparams import check_overrides
from sfmoe_dg.training.model_file import load_model

STUDY = """
datasets = ["Debug28"]
algorithms = ["domainbed:Plain"]
n_trials = 1
n_hparams = 2
test_envs = [[0]]
steps = 2
plugins = ["domainbed={checkout}"]

[overrides."domainbed:Plain"]
batch_size = 2

[launch]
threads = 1
device = "cpu"
"""


def learner(name: str, hparams: dict | None = None, domains: int = 2):
    """An algorithm on pictures of 1 × 1 × 2 in two classes."""
    values = default_hparams(name, "Debug28") | (hparams or {})
    return ALGORITHMS.load(name)((1, 1, 2), 2, domains, values)


def test_names_come_from_the_checkout_without_torch(checkout):
    code = (
        "import sys; from sfmoe_dg.foundation.plugins import load_plugins;"
        "from sfmoe_dg.algorithms.registry import ALGORITHMS;"
        f"load_plugins(['domainbed={checkout}']);"
        "print([n for n in ALGORITHMS if ':' in n], 'torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "['domainbed:Plain', 'domainbed:Needy', 'domainbed:OnGpu'] False", result.stderr


def test_they_are_listed_with_the_others(checkout, capsys):
    assert main(["list", "algorithms", "--plugin", f"domainbed={checkout}"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()][-2:] == [
        "domainbed:Needy",
        "domainbed:OnGpu",
    ]


def test_the_same_checkout_twice_is_once_and_another_is_refused(checkout, tmp_path):
    load_plugins([f"domainbed={checkout}", f"domainbed={checkout}/"])
    other = write_checkout(tmp_path / "other")
    with pytest.raises(UserError, match=r"already imported from .*Domain Bed"):
        load_plugins([f"domainbed={other}"])


def test_a_package_that_cannot_be_imported_leaves_nothing_behind(checkout):
    package = find_package(checkout)
    (package / "__init__.py").write_text("half = 1\n1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        open_package(package)
    assert PACKAGE not in sys.modules
    (package / "__init__.py").write_text("half, whole = 1, 2  # mended\n")
    assert open_package(package).whole == 2


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: None, "does not exist; give the folder"),
        (lambda path: path.mkdir(), "lacks domainbed/__init__.py"),
        (lambda path: (write_checkout(path) / "domainbed/algorithms.py").write_text("x = 1"), "no list ALGORITHMS"),
        (lambda path: (write_checkout(path) / "domainbed/algorithms.py").write_text("x ="), "cannot be read"),
    ],
)
def test_what_is_no_checkout_is_refused_in_a_sentence(tmp_path, make, sentence):
    make(tmp_path / "checkout")
    with pytest.raises(UserError, match=sentence):
        load_plugins([f"domainbed={tmp_path / 'checkout'}"])


def test_defaults_and_draws_are_the_checkouts(checkout):
    load_plugins([f"domainbed={checkout}"])
    from domainbed import hparams_registry

    for dataset in ("Debug28", "PACS"):
        assert default_hparams("domainbed:Plain", dataset) == hparams_registry.default_hparams("Plain", dataset)
        for seed in (1, 785910682):
            drawn = random_hparams("domainbed:Plain", dataset, seed)
            # By hand, from the miniature's rule: "Plain" has five letters.
            assert drawn["lr"] == 10 ** np.random.RandomState(seed + 5).uniform(-3, -1)
            assert drawn == hparams_registry.random_hparams("Plain", dataset, seed)
            json.dumps(drawn)


def test_overrides_are_checked_against_the_checkouts_names_and_types(checkout):
    load_plugins([f"domainbed={checkout}"])
    table = ALGORITHMS.load("domainbed:Plain").hparam_table("PACS")
    check_overrides(table, {"lr": 1, "batch_size": 3}, "a test")
    with pytest.raises(UserError, match="unknown hyper-parameter 'backbone'"):
        check_overrides(table, {"backbone": "auto"}, "a test")
    with pytest.raises(UserError, match="must be a whole number"):
        check_overrides(table, {"batch_size": 2.5}, "a test")
    with pytest.raises(UserError, match="must be a finite number above 0"):
        check_overrides(table, {"lr": 0.0, "batch_size": 2}, "a test")


def test_an_update_is_the_checkouts_own(checkout):
    load_plugins([f"domainbed={checkout}"])
    algorithm = learner("domainbed:Plain", {"lr": 1.0})
    linear = algorithm.upstream.network[1]
    torch.nn.init.zeros_(linear.weight)
    torch.nn.init.zeros_(linear.bias)
    minibatches = [
        (torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([0])),
        (torch.tensor([[[[0.0, 1.0]]]]), torch.tensor([1])),
    ]
    # Zero weights: both classes have probability 1/2, so the loss is log 2. The gradient by the logits is (-1/2, 1/2)
    # of the first image and (1/2, -1/2) of the second, each counted half.
    assert algorithm.update(minibatches)["loss"] == pytest.approx(math.log(2))
    assert torch.allclose(linear.weight, torch.tensor([[0.25, -0.25], [-0.25, 0.25]]))
    assert torch.allclose(algorithm.predict(torch.tensor([[[[2.0, 0.0]]]])), torch.tensor([[0.5, -0.5]]))


def test_weights_have_the_checkouts_names(checkout):
    load_plugins([f"domainbed={checkout}"])
    algorithm, other = learner("domainbed:Plain"), learner("domainbed:Plain")
    assert set(algorithm.state_dict()) == {"network.1.weight", "network.1.bias"}
    other.load_state_dict(algorithm.state_dict())
    x = torch.ones(1, 1, 1, 2)
    assert torch.equal(algorithm.predict(x), other.predict(x))


def test_what_cannot_be_built_or_trained_says_why(checkout):
    load_plugins([f"domainbed={checkout}"])
    with pytest.raises(UserError, match="Needy cannot be built here: Install something"):
        learner("domainbed:Needy")
    algorithm = learner("domainbed:Plain")
    algorithm.precision = Precision("fp16", "cpu")
    with pytest.raises(UserError, match="use bf16 or fp32"):
        algorithm.update([])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device to go to")
def test_an_algorithm_that_asks_for_cuda_trains_without(checkout):
    load_plugins([f"domainbed={checkout}"])
    algorithm = learner("domainbed:OnGpu")
    assert algorithm.upstream.weight.device.type == "cpu"
    # Its own train() takes no argument.
    assert not algorithm.eval().training
    assert algorithm.train().training


def test_one_run_is_trained_saved_and_loaded(checkout, tmp_path, capsys):
    flags = ["--dataset", "Debug28", "--algorithm", "domainbed:Plain", "--steps", "2", "--hparams_seed", "3"]
    flags += ["--hparams", '{"batch_size": 2}', "--device", "cpu", "--num_workers", "0"]
    plugin = ["--plugin", f"domainbed={checkout}"]
    assert main(["train", *flags, *plugin, "--output_dir", str(tmp_path / "run")]) == 0
    record = json.loads((tmp_path / "run" / "results.jsonl").read_text().splitlines()[-1])
    assert record["args"]["algorithm"] == "domainbed:Plain"
    assert set(record["hparams"]) == {"lr", "batch_size", "data_augmentation", "class_balanced"}
    algorithm = load_model(tmp_path / "run")
    saved = torch.load(tmp_path / "run" / "model.pkl", weights_only=True)["model_dict"]
    assert torch.equal(algorithm.upstream.network[1].weight, saved["network.1.weight"])


@pytest.mark.slow
def test_a_study_is_planned_run_and_tabulated(checkout, tmp_path, capfd):
    (tmp_path / "study.toml").write_text(STUDY.format(checkout=checkout))
    out = tmp_path / "out"
    assert main(["sweep", str(tmp_path / "study.toml"), "--output_dir", str(out)]) == 0
    assert main(["collect", "--input_dir", str(out)]) == 0
    assert "domainbed:Plain" in capfd.readouterr().out
    records = [json.loads(path.read_text().splitlines()[-1]) for path in out.glob("*/results.jsonl")]
    assert {record["hparams"]["batch_size"] for record in records} == {2}
    assert len({record["hparams"]["lr"] for record in records}) == 2


class TestRealCheckout:
    """With DomainBed itself."""

    def names(self, upstream: str) -> list[str]:
        load_plugins([f"domainbed={upstream}"])
        return [name for name in ALGORITHMS if name.startswith("domainbed:")]

    def test_every_default_and_draw(self, upstream):
        names = self.names(upstream)
        from domainbed import hparams_registry

        assert len(names) >= 34
        for name in names:
            bare = name.partition(":")[2]
            for dataset in ("RotatedMNIST", "PACS", "DomainNet", "TerraIncognita"):
                assert default_hparams(name, dataset) == hparams_registry.default_hparams(bare, dataset)
                for seed in (12345, 785910682):
                    assert random_hparams(name, dataset, seed) == hparams_registry.random_hparams(bare, dataset, seed)

    def test_every_algorithm_updates_and_is_restored(self, upstream):
        torch.manual_seed(0)
        minibatches = [(torch.rand(8, 1, 28, 28), torch.arange(8) % 10) for _ in range(3)]
        refused = []
        for name in self.names(upstream):
            hparams = default_hparams(name, "RotatedMNIST")
            try:
                algorithm, other = (ALGORITHMS.load(name)((1, 28, 28), 10, 3, hparams) for _ in range(2))
            except UserError as error:
                refused.append((name, "backpack" in str(error)))
                continue
            for _ in range(2):
                values = algorithm.update(minibatches)
                assert values
                assert all(math.isfinite(value) for value in values.values()), name
            other.load_state_dict(algorithm.state_dict())
            predictions = []
            for each in (algorithm.eval(), other.eval()):
                # MTL predicts with noise.
                torch.manual_seed(1)
                predictions.append(each.predict(minibatches[0][0]))
            assert torch.equal(*predictions), name
        assert refused in ([], [("domainbed:Fishr", True)])

    def test_erm_trains_as_ours_does(self, upstream):
        self.names(upstream)
        theirs, ours = (
            ALGORITHMS.load(name)((1, 28, 28), 10, 3, default_hparams(name, "RotatedMNIST"))
            for name in ("domainbed:ERM", "ERM")
        )
        with torch.no_grad():
            for mine, yours in zip(ours.network.parameters(), theirs.upstream.network.parameters(), strict=True):
                mine.copy_(yours)
        generator = torch.Generator().manual_seed(0)
        for _ in range(5):
            batches = [(torch.rand(8, 1, 28, 28, generator=generator), torch.arange(8) % 10) for _ in range(3)]
            assert float(ours.update(batches)["loss"]) == pytest.approx(theirs.update(batches)["loss"], rel=1e-5)
