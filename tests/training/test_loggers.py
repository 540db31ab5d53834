"""TensorBoard and W&B show every record of a run once, also after a resume, and change none."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import sfmoe_dg.training.reporters
from sfmoe_dg.cli.flags import run_flags
from sfmoe_dg.cli.main import main
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.runs.spec import RunSpec
from sfmoe_dg.training.loop import Stopped, StopRequest, train
from sfmoe_dg.training.prepare import Execution
from sfmoe_dg.training.reporters.loggers import LOGGERS, Logger, check_loggers, last_step, need_package, scalars

SPEC = RunSpec(
    dataset="Debug28", hparams='{"batch_size": 2}', steps=5, checkpoint_freq=2, test_envs=(0,), skip_model_save=True
)
QUICK = Execution(device="cpu", num_workers=0, checkpoint_minutes=0)


class Recorder(Logger):
    """Keeps everything that it receives."""

    def __init__(self, folder):
        super().__init__(folder)
        self.records = []

    def evaluated(self, record):
        self.records.append(record)


class StopAfter(StopRequest):
    """Asks a run to stop once it has evaluated so often."""

    def __init__(self, logger, evaluations):
        self._logger, self._left = logger, evaluations

    @property
    def requested(self):
        return self._left <= 0


def train_in_two_parts(folder, make_logger):
    """A run that stops after its second evaluation and goes on with a new logger; the loggers are closed."""
    first = make_logger(folder)
    stop = StopAfter(first, 2)
    inner = first.evaluated

    def evaluated(record):
        inner(record)
        stop._left -= 1

    first.evaluated = evaluated
    with pytest.raises(Stopped):
        train(SPEC, folder, QUICK, first, stop)
    first.close()
    second = make_logger(folder)
    train(SPEC, folder, QUICK, second)
    second.close()


def records_of(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def without_times(records):
    drop = ("step_time", "args")
    return [{name: value for name, value in record.items() if name not in drop} for record in records]


def test_the_numbers_of_a_record_are_logged_by_their_names():
    record = {"step": 3, "loss": 0.5, "mem_gb": 1, "flag": True, "hparams": {"lr": 1}, "args": {}, "name": "x"}
    assert scalars(record) == {"loss": 0.5, "mem_gb": 1.0}


def test_the_last_step_is_that_of_the_last_record(tmp_path):
    assert last_step(tmp_path) == -1
    (tmp_path / "results.jsonl").write_text('{"step": 0}\n{"step": 30}\n')
    assert last_step(tmp_path) == 30


def test_unknown_loggers_and_missing_packages_are_one_sentence(tmp_path, capsys):
    with pytest.raises(UserError, match="unknown logger 'tensorbord': did you mean tensorboard"):
        check_loggers(["tensorbord"])
    with pytest.raises(UserError, match=r"needs a package: pip install 'sfmoe-dg\[wandb\]'"):
        need_package("no_such_package", "wandb")
    words = ["train", "--dataset", "Debug28", "--output_dir", str(tmp_path / "run"), "--log", "wanb"]
    assert main(words) == 2
    assert "did you mean wandb" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_every_file_is_registered():
    files = {path.stem for path in Path(sfmoe_dg.training.reporters.__file__).parent.glob("*.py")} - {
        "__init__",
        "reporter",
        "together",
        "loggers",
    }
    assert files == {LOGGERS.load(name).__module__.rpartition(".")[2] for name in LOGGERS.registered}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The folder of the same run, never interrupted and without loggers."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    train(SPEC, folder, QUICK)
    return folder


def test_tensorboard_shows_every_record_once(tmp_path, plain):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install 'sfmoe-dg[tensorboard]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "run"
    train_in_two_parts(folder, LOGGERS.load("tensorboard"))
    records = records_of(folder)
    assert [record["step"] for record in records] == [0, 2, 4]
    assert without_times(records) == without_times(records_of(plain))
    assert len(list((folder / "tensorboard").iterdir())) == 2
    shown = EventAccumulator(str(folder / "tensorboard"))
    shown.Reload()
    assert set(shown.Tags()["scalars"]) == set(scalars(records[-1]))
    for name in ("loss", "env0_out_acc", "step_time"):
        points = [(point.step, point.value) for point in shown.Scalars(name)]
        assert points == [(record["step"], pytest.approx(record[name], rel=1e-6)) for record in records]


def test_what_a_killed_run_logged_behind_its_last_record_is_forgotten(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install 'sfmoe-dg[tensorboard]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "run"
    make = LOGGERS.load("tensorboard")

    class Killed(make):
        """Logs a record and is killed before the run saves."""

        def evaluated(self, record):
            super().evaluated(record)
            if record["step"] == 2:
                super().evaluated(record | {"step": 4, "loss": 1e9})
                raise KeyboardInterrupt

    killed = Killed(folder)
    with pytest.raises(KeyboardInterrupt):
        train(SPEC, folder, QUICK, killed)
    second = make(folder)
    train(SPEC, folder, QUICK, second)
    second.close()
    shown = EventAccumulator(str(folder / "tensorboard"))
    shown.Reload()
    assert [point.step for point in shown.Scalars("loss")] == [0, 2, 4]
    assert max(point.value for point in shown.Scalars("loss")) < 1e9


def test_wandb_offline_goes_on_with_the_same_run(tmp_path, plain, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="wandb is not installed: pip install 'sfmoe-dg[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "run"
    train_in_two_parts(folder, LOGGERS.load("wandb"))
    assert without_times(records_of(folder)) == without_times(records_of(plain))
    run_id = json.loads((folder / "wandb.json").read_text())["id"]
    files = sorted((folder / "wandb").glob("offline-run-*/*.wandb"))
    assert [path.name for path in files] == [f"run-{run_id}.wandb"] * 2
    # W&B's own process writes the files, and may not have come to their end.
    wandb.teardown()
    rows = [row for path in files for row in wandb_rows(path)]
    assert [row["_step"] for row in rows] == [0, 2, 4]
    assert [row["env0_out_acc"] for row in rows] == [record["env0_out_acc"] for record in records_of(folder)]


def wandb_rows(path):
    """The history rows of a W&B file: after 7 bytes of its own, LevelDB's log format, each entry a protocol buffer."""
    from wandb.proto import wandb_internal_pb2

    content, entry, position = path.read_bytes(), b"", 7
    while position < len(content):
        if 32768 - position % 32768 < 7:  # too little is left of the block for an entry's head
            position += 32768 - position % 32768
            continue
        _, size, kind = struct.unpack_from("<IHB", content, position)
        entry += content[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):  # whole, or the last part
            record, entry = wandb_internal_pb2.Record.FromString(entry), b""
            if record.WhichOneof("record_type") == "history":
                yield {".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}


def test_a_refusal_of_wandb_is_one_sentence(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="wandb is not installed: pip install 'sfmoe-dg[wandb]'")

    def refuse(**kwargs):
        raise wandb.errors.UsageError("No API key configured.\nUse `wandb login`.")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(UserError, match=r"W&B cannot be used \(No API key configured\.\); .*WANDB_MODE=offline"):
        train(SPEC, tmp_path / "run", QUICK, LOGGERS.load("wandb")(tmp_path / "run"))


def test_the_command_line_logs_beside_the_console(tmp_path, capsys):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install 'sfmoe-dg[tensorboard]'")
    words = ["train", *run_flags(SPEC), "--num_workers", "0", "--device", "cpu", "--output_dir", str(tmp_path / "run")]
    # A process of its own: it sets signal handlers.
    result = subprocess.run(
        [sys.executable, "-m", "sfmoe_dg", *words, "--log", "tensorboard"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "done: " in result.stdout
    assert "step     4/5" in (tmp_path / "run" / "out.txt").read_text()
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1
