"""Reading a folder of runs gives the numbers of its records for any number of processes."""

import json
import multiprocessing

import pytest
from record_makers import make_record, write_run

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.results import read_many as record_folders
from sfmoe_dg.results.collect import FORMATS, collect
from sfmoe_dg.results.read import load_records
from sfmoe_dg.results.read_many import load_runs


@pytest.fixture
def odd_folder(tmp_path):
    """Runs of every kind that is reported: repeated, cut short, with options, unreadable, with domain names."""
    root = tmp_path / "runs"
    for number in range(150):  # more than one batch
        write_run(root, f"{number:03}", [make_record(step, hparams_seed=number) for step in (0, 300)])
    write_run(root, "doubled", [make_record(0, hparams_seed=3)])
    write_run(root, "again", [make_record(0, hparams_seed=200), make_record(0, hparams_seed=200)])
    cut = write_run(root, "cut", [make_record(0, hparams_seed=201), make_record(1, hparams_seed=201)])
    cut.write_bytes(cut.read_bytes()[:-20])
    write_run(root, "options", [make_record(dataset="Mine") | {"options": {"split": "identity"}}])
    (root / "options" / "run.json").write_text(json.dumps({"domains": ["sun", "rain"]}))
    (root / "unreadable" / "results.jsonl").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "notes.txt").write_text("a file beside the runs")
    return root


def plain(loaded):
    """All values that tables use, independent of where blocks are cut."""
    rows = [(block.run, block.num_domains, *row) for block in loaded.blocks for row in block.values.tolist()]
    return rows, loaded.problems, loaded.domains, loaded.total


def test_numbers_problems_and_domains_are_those_of_the_records(odd_folder):
    records, runs = load_records(odd_folder), load_runs(odd_folder)
    assert plain(runs) == plain(records)
    assert runs.total == 150 * 2 + 1 + 2 + 1 + 1
    assert runs.domains == {"Mine": ("sun", "rain")}
    assert [problem.partition(str(odd_folder))[2].partition(" ")[0] for problem in runs.problems] == [
        "/again/results.jsonl", "/cut/results.jsonl,", "/003", "/unreadable/results.jsonl",
    ]  # fmt: skip
    assert runs.problems[-1].endswith("cannot be read (Is a directory); its run is left out")


def test_several_processes_find_the_same(odd_folder, monkeypatch):
    alone = load_runs(odd_folder)
    others = set(multiprocessing.active_children())  # of other tests, until their loaders are collected
    monkeypatch.setattr(record_folders, "FOLDERS_OF_A_PROCESS", 1)
    started = []
    executor = record_folders.ProcessPoolExecutor
    monkeypatch.setattr(record_folders, "ProcessPoolExecutor", lambda *args: started.append(args[0]) or executor(*args))
    assert plain(load_runs(odd_folder, processes=2)) == plain(alone)
    assert started == [2]
    assert set(multiprocessing.active_children()) <= others


def test_a_small_folder_starts_no_process(odd_folder, monkeypatch):
    monkeypatch.setattr(record_folders, "ProcessPoolExecutor", None)
    assert load_runs(odd_folder, processes=64).total == 305


def test_an_error_in_a_process_is_the_callers(tmp_path, monkeypatch):
    for name in "abc":
        write_run(tmp_path, name, [make_record()]).write_text("{")
    monkeypatch.setattr(record_folders, "FOLDERS_OF_A_PROCESS", 1)
    with pytest.raises(UserError, match=r"no readable record in .*/a/results\.jsonl, line 1 .* \(3 problem"):
        load_runs(tmp_path, processes=2)


def test_every_format_is_the_same_from_records_and_from_their_numbers(odd_folder):
    records = load_records(odd_folder)
    for format, render in FORMATS.items():
        assert collect(odd_folder, format).output == render(records)
