"""Records survive killed runs, odd lines and NumPy's types; everything left out is reported."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from record_makers import make_record, write_run

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.files import atomic_file, read_json, write_atomic
from sfmoe_dg.results.read import load_records
from sfmoe_dg.results.record_lines import dataset_label, options_label
from sfmoe_dg.runs.records import append_record


def test_folders_are_read_in_the_order_of_their_names(tmp_path):
    for name in ("b", "c", "a"):
        write_run(tmp_path, name, [make_record(step, output_dir=name, hparams_seed=ord(name)) for step in (0, 1)])
    (tmp_path / "results.txt").write_text("a file beside the runs")
    (tmp_path / "empty").mkdir()
    loaded = load_records(tmp_path)
    assert [(r["args"]["output_dir"], r["step"]) for r in loaded.records] == [
        ("a", 0), ("a", 1), ("b", 0), ("b", 1), ("c", 0), ("c", 1),
    ]  # fmt: skip
    assert loaded.problems == []


def test_a_broken_last_line_is_reported_and_left_out(tmp_path):
    path = write_run(tmp_path, "run", [make_record(0), make_record(1)])
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:100])
    loaded = load_records(tmp_path)
    assert [r["step"] for r in loaded.records] == [0, 1]
    assert loaded.problems == [f"{path}, line 3 is cut short or broken, as a killed run leaves it; it is left out"]


def test_a_last_line_that_lacks_only_its_newline_counts(tmp_path):
    path = write_run(tmp_path, "run", [make_record(0), make_record(1)])
    path.write_bytes(path.read_bytes()[:-1])
    loaded = load_records(tmp_path)
    assert [r["step"] for r in loaded.records] == [0, 1]
    assert loaded.problems == []


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("{broken", "line 2 is not valid JSON"),
        ("", "line 2 is not valid JSON"),
        ("[1, 2]", "line 2 has no 'args'"),
        ("3", "line 2 has no 'args'"),
        ('{"step": 1}', "line 2 has no 'args'"),
        ('{"step": 1, "args": {"dataset": "PACS"}}', "line 2 has no 'algorithm' of type str in its 'args'"),
        (json.dumps(make_record(trial_seed=None)), "line 2 has no 'trial_seed' of type int"),
        (json.dumps(make_record(test_envs=[])), "line 2 has 'test_envs' that are not a list of domain numbers"),
        (json.dumps(make_record(test_envs=[7])), "line 2 has no number 'env7_in_acc'"),
        (json.dumps(make_record(accs=((0.1, 0.1), (0.1, None)))), "line 2 has no number 'env1_out_acc'"),
        (json.dumps(make_record(step=None)), "line 2 has no number 'step'"),
        (json.dumps(make_record() | {"options": 3}), "line 2 has 'options' that are not an object"),
        ("\udcff", "line 2 is not valid JSON"),
    ],
)
def test_an_unusable_line_in_the_middle_is_reported_and_left_out(tmp_path, line, fault):
    path = write_run(tmp_path, "run", [make_record(0), make_record(1)])
    first, second = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([first, line.encode(errors="surrogateescape"), second, b""]))
    loaded = load_records(tmp_path)
    assert [r["step"] for r in loaded.records] == [0, 1]
    assert len(loaded.problems) == 1
    assert fault in loaded.problems[0]


def test_missing_and_empty_folders_say_what_to_do(tmp_path):
    with pytest.raises(UserError, match="does not exist; give the folder that holds one sub-folder per run"):
        load_records(tmp_path / "nowhere")
    with pytest.raises(UserError, match="train there first, or give another folder"):
        load_records(tmp_path)
    path = write_run(tmp_path, "run", [make_record()])
    with pytest.raises(UserError, match="is the folder of one run; give the folder above it"):
        load_records(path.parent)
    with pytest.raises(UserError, match="is a file"):
        load_records(path)
    path.write_text("{")
    with pytest.raises(UserError, match="no readable record"):
        load_records(tmp_path)


def test_runs_that_were_started_twice_are_reported(tmp_path):
    write_run(tmp_path, "a", [make_record(0), make_record(1)])
    write_run(tmp_path, "b", [make_record(0), make_record(0)])
    problems = load_records(tmp_path).problems
    assert any("holds some steps more than once" in p and "/b/" in p for p in problems)
    assert any("hold the same run (PACS, ERM, test_envs [0], hparams_seed 0, trial_seed 0)" in p for p in problems)
    assert len(problems) == 2


def test_domain_names_come_from_run_json(tmp_path):
    path = write_run(tmp_path, "a", [make_record(dataset="Mine")])
    write_atomic(path.parent / "run.json", json.dumps({"domains": ["sun", "rain", "snow"]}))
    path = write_run(tmp_path, "b", [make_record(dataset="Other")])
    write_atomic(path.parent / "run.json", "{")
    loaded = load_records(tmp_path)
    assert loaded.domains == {"Mine": ("sun", "rain", "snow")}
    assert len(loaded.problems) == 1
    assert "is not valid JSON" in loaded.problems[0]


def test_options_are_part_of_the_label():
    plain, empty = make_record(), make_record() | {"options": {}}
    assert dataset_label(plain) == dataset_label(empty) == "PACS"
    assert options_label(plain) == ""
    record = make_record() | {"options": {"split": "identity", "hparams_per_trial": False}}
    assert dataset_label(record) == "PACS [hparams_per_trial=false, split=identity]"


def test_append_record_writes_numpy_types_and_sorted_keys(tmp_path):
    record = make_record() | {
        "int": np.int64(3), "float": np.float32(0.5), "double": np.float64(0.1), "bool": np.bool_(True),
        "array": np.arange(2), "nan": float("nan"),
    }  # fmt: skip
    append_record(tmp_path / "results.jsonl", record)
    (line,) = (tmp_path / "results.jsonl").read_text().splitlines()
    read = json.loads(line)
    assert list(read) == sorted(read)
    assert (read["int"], read["float"], read["double"], read["bool"], read["array"]) == (3, 0.5, 0.1, True, [0, 1])
    assert '"nan": NaN' in line
    with pytest.raises(TypeError, match="which JSON has no form for"):
        append_record(tmp_path / "results.jsonl", {"x": object()})


def test_append_record_starts_a_new_line_after_a_killed_write(tmp_path):
    path = write_run(tmp_path, "run", [make_record(0)])
    path.write_bytes(path.read_bytes() + b'{"args": {"algo')
    append_record(path, make_record(1))
    loaded = load_records(tmp_path)
    assert [r["step"] for r in loaded.records] == [0, 1]
    assert "line 2 is not valid JSON" in loaded.problems[0]


def test_write_atomic_replaces_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomic(path, "old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"

    def fail(*_):
        raise OSError("no")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no"):
        write_atomic(path, "newer")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_atomic_file_leaves_nothing_when_its_block_raises(tmp_path):
    def interrupted():
        with atomic_file(tmp_path / "file") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert os.listdir(tmp_path) == []


def test_read_json_names_the_file(tmp_path):
    with pytest.raises(UserError, match=r"x\.json cannot be read"):
        read_json(tmp_path / "x.json")
    (tmp_path / "x.json").write_text("{\n]")
    with pytest.raises(UserError, match=r"x\.json is not valid JSON: .* in line 2"):
        read_json(tmp_path / "x.json")
    (tmp_path / "x.json").write_bytes(b'"\xff"')
    with pytest.raises(UserError, match="not UTF-8"):
        read_json(tmp_path / "x.json")


def test_tables_and_pages_need_no_torch():
    code = (
        "import sys; import sfmoe_dg.runs.records, sfmoe_dg.results.page.page, sfmoe_dg.results.collect; "
        "print([m for m in ('torch', 'torchvision', 'wilds', 'timm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
