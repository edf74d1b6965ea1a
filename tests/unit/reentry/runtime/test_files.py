"""A place that takes no file is named in one line; what was there stays."""

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
    with whole_file(path) as part:
        part.write_text(text)


def test_a_file_below_a_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError) as raised:
        write(tmp_path / "file" / "a.csv", "")
    assert str(raised.value) == (
        f"{tmp_path}/file/a.csv: cannot be written: a file stands where a folder is needed; "
        "fix: give another place, or make room or leave to write there"
    )


def test_a_folder_of_the_files_name_is_refused_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(InputError, match=r"a\.csv: cannot be written: Is a directory"):
        write(tmp_path / "a.csv", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_on_a_full_disk_the_file_of_before_stays(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "before")
    with room_for(100), pytest.raises(InputError, match=r"a\.csv: cannot be written: File too large"):
        write(tmp_path / "a.csv", "x" * 1000)
    assert (tmp_path / "a.csv").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_a_failure_to_read_another_file_is_not_taken_for_one_to_write(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.csv"), whole_file(tmp_path / "a.csv"):
        (tmp_path / "none.csv").read_text()


def test_errors_that_are_not_the_systems_pass_through_unchanged(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), writing(tmp_path):
        _ = 1 // 0


def test_a_place_is_checked_before_it_is_there_and_nothing_is_left(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "folder")
    assert list(tmp_path.iterdir()) == []


def test_a_place_below_a_file_or_on_a_system_that_takes_none_does_not_pass_the_check(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/new: cannot be written: "):
        check_writable(tmp_path / "file" / "new")
    with pytest.raises(InputError, match=r"/proc/new: cannot be written: "):
        check_writable(Path("/proc/new"))


KILLED = """
import os, signal, sys
from pathlib import Path
from reentry.runtime.files import whole_file
with whole_file(Path(sys.argv[1])) as part:
    part.write_text("half")
    print("writing", flush=True)
    sys.stdin.read(1)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_removed_by_the_next_and_what_a_live_one_writes_stays(tmp_path: Path) -> None:
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


def test_two_writers_of_one_file_in_one_process_leave_each_other_alone(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a.csv") as first, whole_file(tmp_path / "a.csv") as second:
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "a.csv").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
