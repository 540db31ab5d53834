"""The command line as a user meets it: exit codes, sentences, a sweep from plan to tables."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from wrong_things import images

from sfmoe_dg.cli.main import COMMANDS, main
from sfmoe_dg.sweeps.launch.pool import last_line

OBJECTIVE = '''
import torch
from sfmoe_dg.algorithms.registry import ALGORITHMS
from sfmoe_dg.algorithms.erm import ERM
from sfmoe_dg.runs.hparams import Hparam, log10_uniform


class FeatureDecay(ERM):
    """ERM that keeps features short."""

    paper = "a test"

    @classmethod
    def hparam_table(cls, dataset):
        return super().hparam_table(dataset) | {"decay": Hparam(1e-3, log10_uniform(-5, -1))}

    def objective(self, forward):
        loss, logged = super().objective(forward)
        penalty = torch.cat(forward.features).pow(2).mean()
        return loss + self.hparams["decay"] * penalty, logged | {"penalty": penalty}


ALGORITHMS.register("FeatureDecay", FeatureDecay)
'''

STUDY = """
datasets = ["Debug28"]
algorithms = ["FeatureDecay"]
n_trials = 1
n_hparams = 1
test_envs = [[0], [2]]
steps = 1
skip_model_save = true
plugins = ["{plugin}"]

[hparams]
batch_size = 2

[launch]
jobs = 2
threads = 1
device = "cpu"
"""


@pytest.fixture
def run(capsys):
    """Run a command in this process; returns its exit code, standard output and standard error."""

    def command(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(list(words))
        return code, *capsys.readouterr()

    return command


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """A study of one objective that is not part of the package, in a folder with a space in its name."""
    folder = tmp_path_factory.mktemp("a study")
    (folder / "my_objective.py").write_text(OBJECTIVE)
    (folder / "study.toml").write_text(STUDY.format(plugin=folder / "my_objective.py"))
    return folder


@pytest.fixture(scope="module")
def finished(study) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder of a sweep that was run in a process of its own, and the output of that process."""
    words = [sys.executable, "-m", "sfmoe_dg", "sweep", str(study / "study.toml"), "--output_dir", str(study / "out")]
    return study / "out", subprocess.run(words, capture_output=True, text=True)


def test_a_third_partys_objective_goes_from_one_file_to_the_tables(finished):
    folder, result = finished
    assert result.returncode == 0, result.stderr
    assert "FeatureDecay" in (folder / "results.txt").read_text()
    for name in ("results.txt", "results.tex", "results.md", "results.csv", "results.html"):
        assert (folder / name).stat().st_size > 0
        assert str(folder / name) in result.stdout
    assert (folder / "results.txt").read_text() in result.stdout


def test_it_is_listed(study, run):
    _, shown, _ = run("list", "algorithms", "--plugin", str(study / "my_objective.py"))
    assert "FeatureDecay  a test" in " ".join(shown.split("\n")).replace("   ", "  ")


def test_status_of_a_complete_sweep(study, finished, run):
    folder, _ = finished
    code, shown, _ = run("status", "--output_dir", str(folder))
    assert code == 0
    assert re.search(r"^Debug28 FeatureDecay +2 +0", shown, re.MULTILINE)


def test_a_sweep_goes_on_with_what_is_missing(study, finished, run):
    folder, _ = finished
    runs = sorted(path.parent for path in folder.glob("*/run.json"))
    assert len(runs) == 2
    before = (runs[1] / "results.jsonl").read_bytes()
    (runs[0] / "done").unlink()
    assert run("status", "--output_dir", str(folder))[0] == 1
    code, shown, errors = run("sweep", str(study / "study.toml"), "--output_dir", str(folder))
    assert code == 0, errors
    assert "2 runs, 1 to do" in shown
    assert (runs[0] / "done").exists()
    assert (runs[1] / "results.jsonl").read_bytes() == before


def test_a_run_that_fails_does_not_stop_the_others_and_says_why(study, tmp_path, run):
    text = (study / "study.toml").read_text() + '\n[overrides.FeatureDecay]\nbackbone = "resnet50_nope"\n'
    (tmp_path / "study.toml").write_text(text)
    code, shown, errors = run("sweep", str(tmp_path / "study.toml"), "--output_dir", str(tmp_path / "out"))
    assert code == 1
    assert shown.count("FAILED") == 2
    assert "2 of 2 runs are not done" in errors
    assert "unknown backbone 'resnet50_nope'" in errors
    assert "Traceback" not in shown + errors
    _, states, _ = run("status", "--output_dir", str(tmp_path / "out"))
    assert "unknown backbone" in states


def test_a_dry_run_of_one_run_says_what_it_would_be_and_writes_nothing(tmp_path, capsys):
    words = ["train", "--dataset", "Debug28", "--steps", "5", "--checkpoint_freq", "2", "--dry_run"]
    words += ["--hparams", '{"batch_size": 4}']
    assert main([*words, "--output_dir", str(tmp_path / "run")]) == 0
    shown = capsys.readouterr().out
    assert "batch_size: 4" in shown
    assert shown.endswith("5 steps, 3 evaluations; nothing was trained or written\n")
    assert not (tmp_path / "run").exists()


def test_a_dry_run_says_that_it_fills_the_image_cache(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images()(tmp_path)
    words = ["train", "--dataset", "ImageFolder", "--data_dir", "data", "--steps", "1", "--num_workers", "0"]
    words += ["--hparams", '{"batch_size": 2, "backbone": "test_vit", "pretrained": false}', "--device", "cpu"]
    words += ["--images", "cached", "--cache_dir", "cache", "--dry_run"]
    assert main([*words, "--output_dir", "run"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("images from the cache cache; those missing there are decoded first\n")
    assert shown.endswith("nothing was trained; only the image cache was filled\n")
    assert any((tmp_path / "cache").iterdir())
    assert not (tmp_path / "run").exists()


def test_dry_run_prints_commands_and_writes_nothing(study, tmp_path, run):
    _, shown, _ = run("sweep", str(study / "study.toml"), "--output_dir", str(tmp_path / "out dir"), "--dry_run")
    lines = shown.splitlines()
    assert len(lines) == 2
    assert all("'" in line and "--algorithm FeatureDecay" in line for line in lines)
    assert not (tmp_path / "out dir").exists()


def test_interrupting_a_sweep_leaves_no_process_and_no_done(study, tmp_path, run):
    text = (study / "study.toml").read_text().replace("steps = 1", "steps = 100000")
    (tmp_path / "study.toml").write_text(text)
    command = [sys.executable, "-m", "sfmoe_dg", "sweep", str(tmp_path / "study.toml")]
    process = subprocess.Popen([*command, "--output_dir", str(tmp_path / "out")], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and len(list((tmp_path / "out").glob("*/results.jsonl"))) < 2:
        time.sleep(0.2)
    owners = [json.loads(path.read_text())["pid"] for path in (tmp_path / "out").glob("*/lease.*.json")]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "goes on with what is missing" in errors
    assert len(owners) == 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in owners)
    assert not list((tmp_path / "out").glob("*/done"))
    _, table, _ = run("status", "--output_dir", str(tmp_path / "out"))
    assert re.search(r"^total +0 +0 +0 +0 +2 +0 +2$", table, re.MULTILINE)  # both lost


@pytest.mark.parametrize("command", list(COMMANDS))
def test_help_shows_an_example(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"sfmoe-dg {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--dataset", "PACSS"], "unknown data set 'PACSS': did you mean PACS"),
        (["train", "--algorithm", "SFMOE", "--dataset", "StyledDigits"], "did you mean SFMoE"),
        (["train", "--dataset", "StyledDigits", "--plugin", "nowhere.py"], "plugin file nowhere.py does not exist"),
        (["train", "--dataset", "StyledDigits", "--plugin", "no.such"], "plugin 'no.such' cannot be imported"),
        (["train", "--dataset", "StyledDigits", "--hparams", "{"], "--hparams is not valid JSON"),
        (["sweep", "nowhere.toml", "--output_dir", "x"], "sweep file nowhere.toml does not exist"),
        (["sweep", "sweeps/pacs.toml", "--output_dir", "x"], "data set PACS needs --data_dir"),
        (["sweep", "sweeps/pacs.toml", "--output_dir", "x", "--data_dir", "/no"], "the folder /no/PACS of data set"),
        (["sweep", "sweeps/smoke.toml", "--output_dir", "x", "--jobs", "0"], "--jobs is 0; it must be at least 1"),
        (["sweep", "sweeps/smoke.toml", "--output_dir", "x", "--launcher", "lokal"], "did you mean local"),
        (["status", "--output_dir", "nowhere"], "nowhere holds no sweep"),
        (["collect", "--input_dir", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(words, message, capsys, monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    before = set(Path.cwd().iterdir())
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert err.startswith("sfmoe-dg: error: ")
    assert err.count("\n") == 1
    assert out == ""
    assert set(Path.cwd().iterdir()) == before


def test_an_unwritable_output_folder_is_one_sentence(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    words = ["train", "--dataset", "StyledDigits", "--steps", "1", "--output_dir", str(tmp_path / "file" / "run")]
    assert main(words) == 2
    assert "Not a directory" in capsys.readouterr().err


def test_planning_and_tables_need_no_torch(tmp_path):
    code = (
        "import sys; import sfmoe_dg.cli.main, sfmoe_dg.sweeps.plan, sfmoe_dg.results.collect; "
        "import sfmoe_dg.algorithms.registry; "
        "from sfmoe_dg.cli.main import main; main(['status', '--output_dir', '/nowhere']); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'torchvision', 'timm', 'wilds')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_last_line(tmp_path):
    assert last_line(tmp_path / "none") == ""
    (tmp_path / "err.txt").write_text("one\ntwo\n\n")
    assert last_line(tmp_path / "err.txt") == "two"
    assert last_line(tmp_path / "err.txt", offset=8) == ""  # what stood there before does not count
