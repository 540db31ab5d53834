"""A run's folder as one object: its states, its failures, and which runs are finished with a model."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.runs.folder import Failure, RunFolder, State, finished, run_folders
from sfmoe_dg.runs.lease import acquire
from sfmoe_dg.runs.owner import this_process

NO_PROCESS = 2**22 + 1
"""Above the largest process number of Linux."""
LIVING, DEAD = "lease of the living", "lease of the dead"
RECORD = "results.jsonl"


def make(path: Path, *names: str) -> RunFolder:
    """Make a folder with these files; ``LIVING`` and ``DEAD`` stand for a lease, 'failed.json' for one failure."""
    folder = RunFolder(path)
    path.mkdir(parents=True)
    for name in names:
        if name in (LIVING, DEAD):
            owner = replace(this_process(), pid=NO_PROCESS) if name == DEAD else this_process()
            (path / "lease.3.json").write_text(json.dumps(asdict(owner)))
        elif name == "failed.json":
            assert folder.fail("out of luck", 1) == 1
        else:
            (path / name).write_text("")
    return folder


@pytest.mark.parametrize(
    ("names", "is_queued", "expected"),
    [
        ((), False, State.WAITING),
        ((), True, State.QUEUED),
        ((RECORD, "done"), False, State.DONE),
        ((RECORD, "done", LIVING, "failed.json"), True, State.DONE),
        ((LIVING,), False, State.RUNNING),
        ((LIVING, "failed.json"), True, State.RUNNING),
        ((RECORD,), True, State.QUEUED),
        (("failed.json", DEAD), True, State.QUEUED),
        (("failed.json", DEAD), False, State.FAILED),
        ((RECORD,), False, State.LOST),
        (("checkpoint.pt", DEAD), False, State.LOST),
        (("somebody's notes",), False, State.LOST),
    ],
)
def test_states(tmp_path, names, is_queued, expected):
    folder = make(tmp_path / "run", *names)
    state, failure = folder.state(is_queued)
    assert state is expected
    hidden = state is State.DONE or "failed.json" not in names
    assert failure == (Failure() if hidden else Failure("out of luck", 1))


def test_a_folder_that_is_not_there_is_that_of_a_waiting_run(tmp_path):
    folder = RunFolder(tmp_path / "run")
    assert folder.state() == (State.WAITING, Failure())
    assert folder.names() == set()
    assert (folder.is_done, folder.has_model, folder.lease, folder.owner) == (False, False, None, None)
    assert folder.begun_files == []
    assert not folder.path.exists()


@given(
    names=st.sets(st.sampled_from([LIVING, DEAD, RECORD, "done", "failed.json", "checkpoint.pt"])), queued=st.booleans()
)
def test_done_comes_before_running_before_queued_before_failed_before_lost(names, queued):
    with TemporaryDirectory() as root:
        state, _ = make(Path(root) / "run", *(sorted(names - {DEAD}) if LIVING in names else names)).state(queued)
    signs = {
        State.DONE: "done" in names,
        State.RUNNING: LIVING in names,
        State.QUEUED: queued,
        State.FAILED: "failed.json" in names,
        State.LOST: bool(names),
        State.WAITING: True,
    }
    assert state is next(state for state, sign in signs.items() if sign)


def test_one_listing_tells_the_state_of_a_folder_without_a_lease(tmp_path):
    folder = make(tmp_path / "run", RECORD)
    names = folder.names()
    folder.results.unlink()
    assert folder.state(names=names) == (State.LOST, Failure())
    assert folder.state(names={*names, "done"}) == (State.DONE, Failure())


@given(errors=st.lists(st.text(), min_size=1, max_size=4))
def test_failures_are_counted_until_they_are_forgiven(errors):
    with TemporaryDirectory() as root:
        folder = RunFolder(Path(root))
        assert [folder.fail(error, 1) for error in errors] == list(range(1, len(errors) + 1))
        assert folder.failure() == Failure(errors[-1], len(errors))
        folder.forgive()
        assert folder.failure() == Failure()
        folder.forgive()


def test_a_failure_that_cannot_be_read_is_said(tmp_path):
    folder = make(tmp_path / "run", "failed.json")
    (folder.path / "failed.json").write_text("{")
    with pytest.raises(UserError, match=r"failed\.json is not valid JSON"):
        folder.state()


def test_finishing_leaves_nothing_to_go_on_with(tmp_path):
    folder = make(tmp_path / "run", RECORD, "checkpoint.pt", "failed.json", "model.pkl")
    assert folder.begun_files == [RECORD, "checkpoint.pt"]
    folder.finish()
    assert folder.is_done
    assert folder.names() == {RECORD, "model.pkl", "done"}
    assert (folder.path / "done").read_text() == "done"


def test_the_owner_is_who_holds_the_lease(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with acquire(folder.path) as lease:
        assert folder.lease == lease.path
        assert folder.owner == lease.owner
    assert folder.owner is None


def test_finished_runs_have_kept_their_model_in_either_format(tmp_path):
    make(tmp_path / "both", RECORD, "done", "model.pkl", "model.safetensors")
    make(tmp_path / "tensors", RECORD, "done", "model.safetensors")
    make(tmp_path / "pickled", RECORD, "done", "model.pkl")
    modelless = make(tmp_path / "modelless", RECORD, "done")
    running = make(tmp_path / "running", RECORD, "model.pkl", LIVING)
    make(tmp_path / "launch", "slurm-1.json")
    (tmp_path / "results.txt").write_text("")
    assert [folder.name for folder in finished(tmp_path)] == ["both", "pickled", "tensors"]
    assert run_folders(tmp_path) == sorted([*finished(tmp_path), modelless, running])
    assert modelless.lacks == "has no model, neither model.safetensors nor model.pkl"
    assert running.lacks == "is not finished"


def test_a_run_folder_is_a_path(tmp_path):
    folder = make(tmp_path / "run", RECORD)
    assert Path(folder) == folder.path == tmp_path / "run"
    assert str(folder) == str(tmp_path / "run")
    assert folder.name == "run"
    assert len({folder, RunFolder(tmp_path / "run")}) == 1


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    folder = make(tmp_path / "run", RECORD, ".checkpoint.pt.17.0a1b2c3d.tmp")
    folder.remove_leftovers()
    assert folder.names() == {RECORD}
