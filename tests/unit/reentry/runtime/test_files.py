"""Atomic writes of files, and the errors for places that are not writable."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from reentry.errors import InputError
from reentry.runtime.files import check_writable, remove_leftovers, whole_file, writing
from tests.full_disk import room_for


def write(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text)


def test_a_path_below_a_file_is_refused_with_place_reason_and_fix(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError) as raised:
        write(tmp_path / "file" / "a.csv", "")
    assert raised.value.where == f"{tmp_path}/file/a.csv"
    assert raised.value.problem == "cannot be written: a file exists where a folder is needed"
    assert raised.value.fix == "free disk space, grant write permission, or choose another path"


def test_a_folder_with_the_name_of_the_file_is_refused_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(InputError) as raised:
        write(tmp_path / "a.csv", "text")
    assert (raised.value.where, raised.value.problem) == (f"{tmp_path}/a.csv", "cannot be written: Is a directory")
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_a_full_disk_leaves_the_previous_file_in_place(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "before")
    with room_for(100), pytest.raises(InputError) as raised:
        write(tmp_path / "a.csv", "x" * 1000)
    assert (raised.value.where, raised.value.problem) == (f"{tmp_path}/a.csv", "cannot be written: File too large")
    assert (tmp_path / "a.csv").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_a_failure_to_read_another_file_is_not_reported_as_a_failure_to_write(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.csv"), whole_file(tmp_path / "a.csv"):
        (tmp_path / "none.csv").read_text()


def test_errors_other_than_os_errors_pass_through_unchanged(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), writing(tmp_path):
        _ = 1 // 0


def test_a_folder_is_checked_before_it_exists_and_nothing_is_left_behind(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "folder")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_below_a_file_or_on_a_read_only_file_system_is_not_writable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "new", Path("/proc/new")):
        with pytest.raises(InputError) as raised:
            check_writable(folder)
        assert raised.value.where == str(folder)
        assert raised.value.problem.startswith("cannot be written: ")


KILLED = """
import os, signal, sys
from pathlib import Path
from reentry.runtime.files import whole_file
with whole_file(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print("writing", flush=True)
    sys.stdin.read(1)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_file_of_a_killed_process_is_removed_at_the_next_write_and_that_of_a_live_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    others = {".a.csv", ".a.csv.0123.csv", ".b.csv.0123456789abcdef.csv", ".a.csv.0123456789abcdef.txt"}
    for name in others:
        (tmp_path / name).touch()
    writers = [
        subprocess.Popen([sys.executable, "-c", KILLED, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"writing\n"
        dead, live = writers
        dead.communicate(b"x", timeout=60)
        assert dead.returncode == -signal.SIGKILL
        assert len(list(tmp_path.glob(".a.csv.*.csv"))) == 3
        write(path, "whole")
        assert path.read_text() == "whole"
        (left,) = {each.name for each in tmp_path.iterdir()} - others - {"a.csv"}
        assert (tmp_path / left).read_text() == "half"
        live.communicate(b"x", timeout=60)
        remove_leftovers(path)
        assert {each.name for each in tmp_path.iterdir()} - others == {"a.csv"}
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()


def test_two_writers_of_one_file_in_one_process_do_not_interfere(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a.csv") as first, whole_file(tmp_path / "a.csv") as second:
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "a.csv").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
