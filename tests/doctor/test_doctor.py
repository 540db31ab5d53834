"""``sfmoe-dg doctor``: findings come in order, and it never hangs or crashes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import pytest

from sfmoe_dg.cli.main import main
from sfmoe_dg.doctor import examination
from sfmoe_dg.doctor.examination import examine
from sfmoe_dg.doctor.findings import Finding, Probe, ok, problem, warning


def test_answers_come_in_order_and_a_question_that_hangs_or_fails_is_one_too():
    release = threading.Event()

    def fails() -> Iterator[Finding]:
        yield ok("b", "begun")
        raise RuntimeError("what nobody\nforesaw")

    def hangs() -> Iterator[Finding]:
        release.wait()
        yield ok("c", "too late")

    questions = [
        Probe("a", lambda: iter([ok("a", "1"), warning("a", "2")])),
        Probe("b", fails),
        Probe("c", hangs, seconds=0.1, late=problem("c", "hangs")),
        Probe("d", hangs, seconds=0.1),
    ]
    found = list(examine(questions))
    release.set()
    assert found[:2] == [ok("a", "1"), warning("a", "2")]
    assert found[2] == ok("b", "begun")
    assert found[3] == warning("b", "this check itself failed (RuntimeError: what nobody); please report it")
    assert found[4] == problem("c", "hangs")
    assert found[5] == warning("d", "no answer within 0.1 s; look at what it waits for")


@pytest.mark.parametrize(("worst", "code"), [(ok, 0), (warning, 0), (problem, 1)])
def test_only_a_problem_is_an_exit_code(worst, code, monkeypatch, capsys):
    asked = {}

    def probes(data_dir, output_dir, environment):
        asked.update(data_dir=data_dir, output_dir=output_dir)
        return [Probe("x", lambda: iter([ok("x", "fine"), worst("y", "so so")]))]

    monkeypatch.setattr(examination, "probes", probes)
    assert main(["doctor", "--data_dir", "D"]) == code
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].split() == ["ok", "x", "fine"]
    assert asked == {"data_dir": "D", "output_dir": "."}
    assert main(["doctor", "--json"]) == code
    expected = {"ok": ok, "warning": warning, "problem": problem}
    parsed = json.loads(capsys.readouterr().out)
    assert [expected[entry["level"]](entry["topic"], entry["text"]) for entry in parsed] == [
        ok("x", "fine"),
        worst("y", "so so"),
    ]


def test_a_whole_examination_of_this_machine(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PATH", str(tmp_path))
    main(["doctor", "--output_dir", str(tmp_path / "later"), "--data_dir", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    topics = list(dict.fromkeys(line[9:22].strip() for line in lines[:-1]))
    assert [topic for topic in topics if topic != "shared memory"] == [
        "python",
        "packages",
        "devices",
        "cpu",
        "disk",
        "data",
        "hub",
        "slurm",
        "extras",
    ]
    assert not any("this check itself failed" in line for line in lines)
    assert not list(tmp_path.iterdir())
