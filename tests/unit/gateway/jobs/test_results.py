"""Results as Parquet and Arrow: the values of the CSV file, in bounded memory."""

from __future__ import annotations

import io
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gateway.jobs.results import converted
from gateway.scoring.bodies import ARROW, PARQUET

HEADER = "timestamp,track_id, remark,reentry_probability,reentry_phase\n"


def table_of(text: bytes, media_type: str) -> pa.Table:
    content = b"".join(converted(io.BytesIO(text), media_type))
    return pq.read_table(io.BytesIO(content)) if media_type == PARQUET else pa.ipc.open_stream(content).read_all()


@pytest.mark.parametrize("media_type", [PARQUET, ARROW])
def test_numbers_have_their_types_and_other_columns_stay_text(media_type: str) -> None:
    rows = '1.5,7,"a, ""b""\nc",0.250000,1\n2e3, 8 ,007,,\nabc,99999999999999999999,,0.5,x\n'
    table = table_of(f"\ufeff{HEADER}{rows}".encode(), media_type)
    assert table.schema.names == ["timestamp", "track_id", "remark", "reentry_probability", "reentry_phase"]
    assert [str(kind) for kind in table.schema.types] == ["double", "int64", "string", "double", "int8"]
    assert table.to_pydict() == {
        "timestamp": [1.5, 2000.0, None],
        "track_id": [7, 8, None],
        "remark": ['a, "b"\nc', "007", ""],
        "reentry_probability": [0.25, None, 0.5],
        "reentry_phase": [1, None, None],
    }


@pytest.mark.parametrize("media_type", [PARQUET, ARROW])
def test_bytes_that_are_not_utf_8_do_not_end_the_answer(media_type: str) -> None:
    table = table_of(HEADER.encode() + b"1,2,caf\xe9,0.1,0\n", media_type)
    assert table["remark"].to_pylist() == ["caf\ufffd"]


@pytest.mark.parametrize("media_type", [PARQUET, ARROW])
def test_a_file_without_rows_has_its_columns(media_type: str) -> None:
    table = table_of(HEADER.encode(), media_type)
    assert (table.num_rows, table.num_columns) == (0, 5)


@pytest.mark.parametrize("media_type", [PARQUET, ARROW])
def test_a_large_file_is_converted_in_bounded_memory(media_type: str) -> None:
    class Endless(io.RawIOBase):
        """A file of many rows that is never in memory."""

        left = 90

        def readline(self, _size: int | None = -1) -> bytes:  # type: ignore[override]
            return HEADER.encode()

        def read(self, _size: int = -1) -> bytes:
            self.left -= 1
            return b"1.5,7,remark,0.250000,1\n" * 40_000 if self.left >= 0 else b""

    tracemalloc.start()
    before = pa.total_allocated_bytes()
    largest, total = 0, 0
    for part in converted(Endless(), media_type):  # type: ignore[arg-type]
        total += len(part)
        largest = max(largest, tracemalloc.get_traced_memory()[0], pa.total_allocated_bytes() - before)
    tracemalloc.stop()
    assert total > 30_000
    assert largest < 48 * 2**20, "90 blocks of 1 MB"
