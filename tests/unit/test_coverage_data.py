"""A process that is killed while it writes its coverage does not end the run of the tests."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from coverage import CoverageData

from tests.coverage_data import remove_half_written


def test_only_files_that_cannot_be_read_are_removed(tmp_path: Path) -> None:
    whole = CoverageData(basename=str(tmp_path / ".coverage"), suffix="whole")
    whole.add_lines({"module.py": [1, 2]})
    whole.write()
    whole.close()
    content = (tmp_path / ".coverage.whole").read_bytes()
    with closing(sqlite3.connect(tmp_path / ".coverage.whole")) as data:
        (root,) = data.execute("SELECT rootpage FROM sqlite_master WHERE name = 'line_bits'").fetchone()
        (size,) = data.execute("PRAGMA page_size").fetchone()
    broken = {
        "empty": b"",
        "half": content[: len(content) // 2],
        "noise": bytes(range(256)) * 20,
        "without_rows": content[: (root - 1) * size] + bytes(size) + content[root * size :],
    }
    for name, data in broken.items():
        (tmp_path / f".coverage.{name}").write_bytes(data)
    # The beginning of this one is in order, so combining it raises an error.
    CoverageData(basename=str(tmp_path / ".coverage"), suffix="without_rows").read()
    assert remove_half_written(tmp_path) == [f".coverage.{name}" for name in broken]
    assert [path.name for path in tmp_path.iterdir()] == [".coverage.whole"]
