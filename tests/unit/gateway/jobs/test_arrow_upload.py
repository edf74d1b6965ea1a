from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from gateway.jobs.scoring_child import _parquet
from reentry.errors import TrackFileError
from tests.unit.gateway.scoring.test_bodies import as_arrow, table


def test_an_arrow_stream_becomes_a_parquet_file(tmp_path: Path) -> None:
    stream = tmp_path / "source.arrows"
    stream.write_bytes(as_arrow(table(3)))
    assert pq.read_table(_parquet(stream, tmp_path / "source.parquet")).num_rows == 15


@pytest.mark.parametrize("more", [as_arrow(table(1)), b"x"])
def test_bytes_behind_an_arrow_stream_are_refused(tmp_path: Path, more: bytes) -> None:
    stream = tmp_path / "source.arrows"
    stream.write_bytes(as_arrow(table(3)) + more)
    with pytest.raises(TrackFileError, match="bytes follow the end"):
        _parquet(stream, tmp_path / "source.parquet")
