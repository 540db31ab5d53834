"""``sfmoe-dg doctor``: findings on folders and their disks."""

from __future__ import annotations

import errno
import fcntl
from types import SimpleNamespace

import pytest
from findings import levels

from sfmoe_dg.doctor import disks
from sfmoe_dg.doctor.findings import Level


@pytest.mark.parametrize(
    ("free", "files", "expected"),
    [
        (50 << 30, 10**6, [Level.OK]),
        (5 << 30, 10**6, [Level.WARNING]),
        (1 << 29, 10**6, [Level.PROBLEM]),
        (50 << 30, 100, [Level.OK, Level.PROBLEM]),
    ],
)
def test_room(free, files, expected, monkeypatch, tmp_path):
    monkeypatch.setattr(disks.shutil, "disk_usage", lambda place: SimpleNamespace(free=free))
    monkeypatch.setattr(disks.os, "statvfs", lambda place: SimpleNamespace(f_files=10**7, f_favail=files))
    assert levels(disks.room(tmp_path / "a" / "b")) == expected


def test_a_file_system_that_counts_no_files_is_no_problem(monkeypatch, tmp_path):
    monkeypatch.setattr(disks.shutil, "disk_usage", lambda place: SimpleNamespace(free=50 << 30))
    monkeypatch.setattr(disks.os, "statvfs", lambda place: SimpleNamespace(f_files=0, f_favail=0))
    assert levels(disks.room(tmp_path)) == [Level.OK]


def test_the_folder_that_is_asked_is_the_nearest_that_exists(tmp_path):
    assert disks.existing(tmp_path / "a" / "b") == tmp_path
    assert disks.existing(tmp_path) == tmp_path


def test_what_a_disk_can_do_is_tried_and_nothing_is_left(tmp_path):
    assert levels(disks.abilities(tmp_path / "later")) == [Level.OK]
    assert not list(tmp_path.iterdir())


def test_a_disk_that_renames_or_creates_wrongly_is_a_problem_and_one_without_locks_a_warning(tmp_path, monkeypatch):
    def no_locks(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert levels(disks.abilities(tmp_path)) == [Level.WARNING]
    monkeypatch.setattr(disks.os, "replace", lambda old, new: None)
    (found,) = disks.abilities(tmp_path)
    assert found.level is Level.PROBLEM
    assert found.text.startswith("atomic renaming does not work")


def test_a_place_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    (found,) = disks.abilities(tmp_path / "file")
    assert (found.level, "cannot be written to (Not a directory)" in found.text) == (Level.PROBLEM, True)


@pytest.mark.parametrize(("size", "level"), [(64 << 20, Level.WARNING), (8 << 30, Level.OK)])
def test_shared_memory(size, level, monkeypatch, tmp_path):
    monkeypatch.setattr(disks, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(disks.shutil, "disk_usage", lambda place: SimpleNamespace(total=size))
    assert levels(disks.shared_memory()) == [level]
