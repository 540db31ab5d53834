"""The time estimate of a sweep from timed runs, and the question above a threshold."""

import json

import pytest
from record_makers import make_record
from study_makers import begin, make_done, make_failed, make_study

from sfmoe_dg.cli.main import main
from sfmoe_dg.runs.folder import RunFolder
from sfmoe_dg.runs.progress import Progress, write_progress
from sfmoe_dg.sweeps.status import status
from sfmoe_dg.sweeps.time_estimate import Cost, estimate

STUDY = """
datasets = ["Debug28"]
algorithms = ["ERM"]
n_trials = 1
n_hparams = 1
test_envs = [[0], [1]]
steps = 3600
"""


def by_algorithm(runs):
    return [[run for run in runs if run.algorithm == name] for name in ("ERM", "CORAL")]


def test_what_was_never_timed_has_no_cost(tmp_path):
    runs = make_study(tmp_path, {"steps": 100})
    cost = estimate(status(runs, tmp_path))
    assert (cost.runs, cost.hours) == (40, None)
    assert not cost.is_above(0)
    assert "is not known: no run in this folder has been timed yet" in str(cost)


def test_steps_left_times_the_median_speed_of_the_same_kind(tmp_path):
    runs = make_study(tmp_path, {"steps": 100})
    erm, coral = by_algorithm(runs)
    for run, seconds in zip(erm, (1.0, 2.0, 90.0), strict=False):
        make_done(tmp_path, run, seconds)
    make_done(tmp_path, coral[0], 4.0)
    lost = begin(tmp_path, coral[1], "results.jsonl")
    write_progress(RunFolder(lost), Progress(69, 100, 6.0))
    make_failed(tmp_path, coral[2], times=3)
    # ERM: 17 runs x 100 steps x 2 s; CORAL: 17 x 100 + the 30 left, x 5 s, which is the median of 4 and 6.
    cost = estimate(status(runs, tmp_path))
    assert cost.runs == 17 + 18
    assert cost.hours == pytest.approx((17 * 100 * 2 + (17 * 100 + 30) * 5) / 3600)
    assert cost.measured == "runs timed: 5"


def test_a_kind_that_was_never_timed_takes_the_median_of_all_and_says_so(tmp_path):
    runs = make_study(tmp_path, {"steps": 10})
    erm, _ = by_algorithm(runs)
    for run in erm:
        make_done(tmp_path, run, 3.6)
    cost = estimate(status(runs, tmp_path))
    assert cost.hours == pytest.approx(20 * 10 * 3.6 / 3600)
    assert cost.measured == "runs timed: 20; for 20 of those to do, only other data sets or algorithms"


def test_records_without_progress_give_the_step_time_alone(tmp_path):
    runs = make_study(tmp_path, {"steps": 10})
    folder = make_done(tmp_path, runs[0])
    lines = [json.dumps(make_record(i) | {"step_time": seconds}) for i, seconds in enumerate((9.0, 0.36, 0.36))]
    # One that is broken in the middle, one without a time, and a killed run's last one.
    lines = [lines[0], "{", json.dumps(make_record(1)), *lines[1:], '{"step": 3, "ste']
    (folder / "results.jsonl").write_text("\n".join(lines))
    cost = estimate(status(runs, tmp_path))
    assert cost.hours == pytest.approx(39 * 10 * 0.36 / 3600)
    assert "1 of them without their evaluations" in cost.measured


def test_steps_come_from_the_data_set_unless_the_study_has_its_own(tmp_path):
    runs = make_study(tmp_path)
    make_done(tmp_path, runs[0], 1.0)
    hours = estimate(status(runs, tmp_path)).hours
    assert hours == pytest.approx(39 * 1001 / 3600)  # StyledDigits takes 1001 steps


def test_nothing_to_do_costs_nothing(tmp_path):
    runs = make_study(tmp_path, {"test_envs": [[0]], "n_hparams": 1})
    for run in runs:
        make_done(tmp_path, run, 5.0)
    assert estimate(status(runs, tmp_path)).hours == 0


def test_a_threshold_is_exceeded_only_by_more():
    assert Cost(3, 24.1, "").is_above(24)
    assert not Cost(3, 24.0, "").is_above(24)


@pytest.fixture
def expensive(tmp_path):
    """A study of two runs, one done at 1 s a step: the other takes an hour."""
    (tmp_path / "study.toml").write_text(STUDY)
    out = tmp_path / "out"
    runs = make_study(out, {"name": "study", "datasets": ["Debug28"], "algorithms": ["ERM"], "steps": 3600})
    make_done(out, next(r for r in runs if r.test_envs == (0,) and r.hparams_seed == 0), 1.0)
    return ["sweep", str(tmp_path / "study.toml"), "--output_dir", str(out), "--launcher", "commands"]


def test_a_sweep_that_costs_more_than_the_threshold_is_refused_where_nobody_can_be_asked(expensive, capsys):
    assert main([*expensive, "--confirm_above_hours", "0.9"]) == 2
    out, err = capsys.readouterr()
    assert "1 to do: one after another they take about 1 h 00 min (runs timed: 1), more than 0.9 hours" in err
    assert "say --yes" in err
    assert "--dataset Debug28" not in out


@pytest.mark.parametrize("further", [["--confirm_above_hours", "0.9", "--yes"], ["--confirm_above_hours", "1.1"], []])
def test_below_the_threshold_or_with_yes_it_goes_on(expensive, capsys, further):
    assert main([*expensive, *further]) == 0
    assert capsys.readouterr().out.count("--dataset Debug28") == 1


@pytest.mark.parametrize(("answer", "code", "commands"), [("yes\n", 0, 1), ("no\n", 1, 0)])
def test_on_a_terminal_it_asks(expensive, capsys, monkeypatch, answer, code, commands):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdin.readline", lambda: answer, raising=False)
    assert main([*expensive, "--confirm_above_hours", "0"]) == code
    out, err = capsys.readouterr()
    assert "Go on? [y/N]" in err
    assert out.count("--dataset Debug28") == commands


def test_the_study_can_set_the_threshold(expensive, capsys, tmp_path):
    (tmp_path / "study.toml").write_text(STUDY + "\n[launch]\nconfirm_above_hours = 0.5\n")
    assert main(expensive) == 2
    (tmp_path / "study.toml").write_text(STUDY + "\n[launch]\nconfirm_above_hours = -1\n")
    assert main(expensive) == 2
    assert "'confirm_above_hours' in [launch] of" in capsys.readouterr().err
