"""`sfmoe-dg status`, its output and exit codes, and `sfmoe-dg logs`."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest
from study_makers import make_done, make_failed, make_lost, make_running, make_study

from sfmoe_dg.cli.main import main
from sfmoe_dg.foundation.durations import duration
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.runs.folder import RunFolder
from sfmoe_dg.runs.progress import Progress, read_progress
from sfmoe_dg.sweeps.find_run import find_run, title


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (754, "13 min"),  # 12.6 min
        (3600 + 5 * 60, "1 h 05 min"),
        (86340, "23 h 59 min"),
        (86400 + 3 * 3600, "1 d 03 h"),
    ],
)
def test_durations(seconds, words):
    assert duration(seconds) == words


def test_progress_knows_what_is_left(tmp_path):
    progress = Progress(step=19, steps=100, seconds_per_step=0.5)
    assert (progress.steps_left, progress.seconds_left) == (80, 40.0)  # steps 20 to 99
    assert read_progress(RunFolder(tmp_path)) is None
    RunFolder(tmp_path).progress.write_text('{"step": 1')
    assert read_progress(RunFolder(tmp_path)) is None


def test_the_table_counts_every_state(tmp_path, capsys):
    runs = make_study(tmp_path)
    erm, coral = ([r for r in runs if r.algorithm == name] for name in ("ERM", "CORAL"))
    make_done(tmp_path, erm[0])
    make_running(tmp_path, erm[1], Progress(19, 100, 0.5))
    make_lost(tmp_path, erm[2])
    make_failed(tmp_path, coral[0], times=3, error="CUDA out of memory")
    assert main(["status", "--output_dir", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["done", "running", "queued", "waiting", "lost", "failed", "all"]
    assert " ".join(lines[1].split()) == "StyledDigits ERM 1 1 0 17 1 0 20"
    assert " ".join(lines[2].split()) == "StyledDigits CORAL 0 0 0 19 0 1 20"
    assert " ".join(lines[3].split()) == "total 1 1 0 36 1 1 40"
    assert lines[4] == f"running: {title(erm[1])}  step 20/100, 40 s left"
    assert lines[5].startswith(f"failed 3 times: {title(coral[0])}: CUDA out of memory; it stays so until")
    assert len(lines) == 6


def test_long_lists_end_with_a_count(tmp_path, capsys):
    runs = make_study(tmp_path)
    for run in runs[:23]:
        make_running(tmp_path, run)
    for run in runs[23:]:
        make_failed(tmp_path, run)
    main(["status", "--output_dir", str(tmp_path)])
    lines = Counter(line.partition(": ")[0] for line in capsys.readouterr().out.splitlines())
    assert lines["running"] == 21  # 20 and the count of the other 3
    assert lines["failed once"] == 17


def test_the_exit_code_is_0_only_if_all_is_done(tmp_path, capsys):
    runs = make_study(tmp_path, {"test_envs": [[0]], "n_hparams": 1})
    folders = [make_done(tmp_path, run) for run in runs]
    assert main(["status", "--output_dir", str(tmp_path)]) == 0
    (folders[0] / "done").unlink()
    assert main(["status", "--output_dir", str(tmp_path)]) == 1
    capsys.readouterr()
    assert main(["status", "--output_dir", str(tmp_path), "--json"]) == 1
    values = json.loads(capsys.readouterr().out)
    assert not values["complete"]
    assert values["counts"] == {"done": 1, "running": 0, "queued": 0, "waiting": 0, "lost": 1, "failed": 0}
    assert [run["state"] for run in values["runs"]] == ["lost", "done"]
    assert values["runs"][0]["id"] == runs[0].run_id


def test_json_tells_of_running_and_failed_runs(tmp_path, capsys):
    runs = make_study(tmp_path)
    make_running(tmp_path, runs[0], Progress(9, 20, 2.0))
    make_failed(tmp_path, runs[1], times=2, error="no")
    main(["status", "--output_dir", str(tmp_path), "--json"])
    first, second = json.loads(capsys.readouterr().out)["runs"][:2]
    assert (first["step"], first["steps"], first["seconds_left"]) == (9, 20, 20.0)  # steps 10 to 19
    assert f"process {os.getpid()} on" in first["owner"]
    assert (second["failures"], second["error"]) == (2, "no")


def test_watch_ends_when_nothing_is_left_to_happen(tmp_path, capsys):
    runs = make_study(tmp_path, {"test_envs": [[0]], "n_hparams": 1})
    make_done(tmp_path, runs[0])
    folder = make_running(tmp_path, runs[1])
    timer = threading.Timer(0.5, (folder / "done").write_text, ["done"])
    timer.start()
    assert main(["status", "--output_dir", str(tmp_path), "--watch", "0.1"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("total") >= 2
    assert "running: " in shown


def test_watch_does_not_wait_for_runs_that_failed_for_good(tmp_path):
    runs = make_study(tmp_path, {"test_envs": [[0]], "n_hparams": 1})
    make_done(tmp_path, runs[0])
    make_failed(tmp_path, runs[1], times=3)
    assert main(["status", "--output_dir", str(tmp_path), "--watch", "0.1"]) == 1


def test_ctrl_c_ends_watching_quietly(tmp_path):
    make_study(tmp_path)
    command = [sys.executable, "-m", "sfmoe_dg", "status", "--output_dir", str(tmp_path), "--watch", "0.1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "")


def test_a_queue_that_does_not_answer_is_said_and_hides_nothing(tmp_path, capsys, monkeypatch):
    runs = make_study(tmp_path)
    make_done(tmp_path, runs[0])

    def refuse(output_dir):
        raise UserError("Slurm did not answer")

    monkeypatch.setattr("sfmoe_dg.sweeps.launch.launcher.queued_runs", refuse)
    assert main(["status", "--output_dir", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert "total" in out
    assert err == "which runs are queued is not known: Slurm did not answer\n"


# --------------------------------------------------------------------------------------------------- naming and logs


def test_a_run_is_named_by_the_beginning_of_its_id_or_by_words(tmp_path):
    runs = make_study(tmp_path)
    for run in runs:
        assert find_run(runs, run.run_id) == run
        assert find_run(runs, title(run)) == run
    # "test 0" is one word: it neither means test 0,1 nor hparams 0.
    wanted = next(r for r in runs if (r.algorithm, r.test_envs, r.hparams_seed) == ("CORAL", (0,), 1))
    assert find_run(runs, "coral hparams 1 test 0") == wanted


def test_a_name_of_several_runs_or_of_none_is_answered_with_candidates(tmp_path):
    runs = make_study(tmp_path)
    with pytest.raises(UserError, match=r"'ERM test 0' names 2 runs \(\w{8} StyledDigits ERM test 0 .*give more words"):
        find_run(runs, "ERM test 0")
    with pytest.raises(UserError, match=r"no run is named 'ERM test 9'; nearest: \w{8} StyledDigits ERM"):
        find_run(runs, "ERM test 9")
    with pytest.raises(UserError, match="no run is named 'VGG'; there are, for example: "):
        find_run(runs, "VGG")
    with pytest.raises(UserError, match="is empty"):
        find_run(runs, " ")


def test_logs_show_the_output_and_the_end_of_the_errors(tmp_path, capsys):
    runs = make_study(tmp_path)
    folder = make_failed(tmp_path, runs[0])
    (folder / "out.txt").write_text("step 0\nstep 1\n")
    (folder / "err.txt").write_text("".join(f"line {i}\n" for i in range(30)))
    assert main(["logs", "--output_dir", str(tmp_path), runs[0].run_id[:12], "--lines", "2"]) == 0
    expected = f"step 0\nstep 1\n--- {folder / 'err.txt'}, the last 2 of 30 lines:\nline 28\nline 29\n"
    assert capsys.readouterr().out == expected


def test_logs_of_a_run_that_has_not_begun_are_one_sentence(tmp_path, capsys):
    runs = make_study(tmp_path)
    assert main(["logs", "--output_dir", str(tmp_path), *str(runs[0]).split()]) == 2
    assert "has not begun" in capsys.readouterr().err


def test_following_shows_what_is_added_and_ends_with_the_run(tmp_path, capsys):
    runs = make_study(tmp_path)
    folder = make_running(tmp_path, runs[0])
    (folder / "out.txt").write_text("step 0\n")

    def go_on() -> None:
        time.sleep(0.7)
        with (folder / "out.txt").open("a") as file:
            file.write("step 1\n")
        (folder / "done").write_text("done")

    thread = threading.Thread(target=go_on)
    thread.start()
    assert main(["logs", "--output_dir", str(tmp_path), runs[0].run_id, "--follow"]) == 0
    thread.join()
    assert capsys.readouterr().out == "step 0\nstep 1\n"
