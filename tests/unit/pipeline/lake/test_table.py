"""Reading of tables: any place, and a process that may end at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow.fs
import pytest

from pipeline.lake import table as module
from pipeline.lake.lake import Lake
from tests.lake import write_clean
from tests.training_data import short_flights

READ_AND_END = """
import sys
from pipeline.lake.lake import Lake

Lake(sys.argv[1]).open("clean").to_pyarrow_dataset().head(1)
"""


def test_a_process_may_end_right_after_it_has_read_rows(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    write_clean(lake, short_flights(10))
    for _ in range(3):
        ended = subprocess.run([sys.executable, "-c", READ_AND_END, lake.location], capture_output=True, timeout=120)
        assert (ended.returncode, ended.stderr) == (0, b"")


def test_a_table_is_read_below_a_folder_with_unusual_characters(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "a b c#ä?"))
    flights = short_flights(2)
    write_clean(lake, flights)
    assert lake.open("clean").to_pyarrow_dataset().count_rows() == len(flights)


def test_the_environment_configures_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {}
    monkeypatch.setattr(
        module, "S3FileSystem", lambda **settings: given.update(settings) or pyarrow.fs.LocalFileSystem()
    )
    environment = {"AWS_ENDPOINT_URL": "https://store:8333", "AWS_DEFAULT_REGION": "here", "AWS_CA_BUNDLE": "/ca.pem"}
    module._s3(environment)
    assert given == {"endpoint_override": "https://store:8333", "region": "here", "tls_ca_file_path": "/ca.pem"}
    given.clear()
    module._s3({})
    assert given == {}
