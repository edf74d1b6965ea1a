from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.problems import Problem
from gateway.scoring import arrow_safety, bodies
from gateway.scoring.bodies import (
    ARROW,
    CSV,
    JSON,
    LARGEST_JSON,
    MEDIA_TYPES,
    MOST_ROWS,
    PARQUET,
    media_type_of,
    read_body,
)
from reentry.schema import TRACK_COLUMNS
from reentry.tracks.sources import TableSource


def table(tracks: int = 2, steps: int = 5) -> pd.DataFrame:
    """Rows of tracks without faults."""
    step = np.tile(np.arange(steps), tracks)
    return pd.DataFrame(
        {
            "timestamp": 1.7e9 + 0.5 * step,
            "track_id": np.repeat(np.arange(tracks), steps),
            "sensor_id": 3,
            "latitude": 10.0 + 0.01 * step,
            "longitude": 20.0 + 0.02 * step,
            "altitude": 9e4 - 100.0 * step,
            "radiometric_intensity": 0.1 * step,
        }
    )[[column.name for column in TRACK_COLUMNS]]


def as_json(frame: pd.DataFrame) -> bytes:
    tracks = []
    for track_id, rows in frame.groupby("track_id", sort=False):
        columns = {name: rows[name].tolist() for name in frame.columns if name != "track_id"}
        tracks.append({"track_id": track_id, **columns})
    return json.dumps({"tracks": tracks}, default=int).encode()


def as_arrow(frame: pd.DataFrame, **options: Any) -> bytes:
    rows = pa.Table.from_pandas(frame, preserve_index=False)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, rows.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(rows)
    return sink.getvalue()


def as_parquet(frame: pd.DataFrame, **options: Any) -> bytes:
    sink = io.BytesIO()
    pa.parquet.write_table(pa.Table.from_pandas(frame, preserve_index=False), sink, **options)
    return sink.getvalue()


WRITERS: dict[str, Callable[[pd.DataFrame], bytes]] = {
    JSON: as_json,
    CSV: lambda frame: frame.to_csv(index=False).encode(),
    PARQUET: as_parquet,
    ARROW: as_arrow,
}


@contextmanager
def memory() -> Iterator[pa.MemoryPool]:
    """Memory that Arrow allocates inside the context."""
    pool = pa.default_memory_pool()
    own = pa.proxy_memory_pool(pool)
    pa.set_memory_pool(own)
    try:
        yield own
    finally:
        pa.set_memory_pool(pool)


def status_of(body: bytes, media_type: str) -> int:
    """Status of the problem with a body; 200 if it is read."""
    try:
        read_body(body, media_type).close()
    except Problem as problem:
        return problem.status
    return 200


def problem_of(body: bytes, media_type: str) -> Problem:
    with pytest.raises(Problem) as caught:
        read_body(body, media_type).close()
    return caught.value


@pytest.mark.parametrize("media_type", MEDIA_TYPES)
def test_every_media_type_gives_the_same_tracks(media_type: str) -> None:
    with read_body(WRITERS[media_type](table()), media_type) as file:
        tracks = list(file)
    assert [track.track_id for track in tracks] == [0, 1]
    assert tracks[1].measurements[:, 3].tolist() == [90000.0, 89900.0, 89800.0, 89700.0, 89600.0]
    assert tracks[1].rows.tolist() == [5, 6, 7, 8, 9]


@pytest.mark.parametrize("media_type", MEDIA_TYPES)
def test_faults_of_all_tracks_are_reported_together_and_good_tracks_are_kept(media_type: str) -> None:
    frame = table(4)
    frame.loc[2, "latitude"] = 95.0
    frame.loc[7, "altitude"] = 1e9
    frame.loc[9, "longitude"] = 900.0
    with read_body(WRITERS[media_type](frame), media_type) as file:
        assert [track.track_id for track in file] == [2, 3]
        found = {(fault.track_id, fault.row, fault.column) for fault in file.report.faults}
    assert found == {(0, 2, "latitude"), (1, 7, "altitude"), (1, 9, "longitude")}


def test_a_json_cell_that_is_no_number_is_a_fault_of_its_track_alone() -> None:
    content = json.loads(as_json(table(3)))
    content["tracks"][0]["latitude"][2] = "north"
    content["tracks"][1]["altitude"][0] = [1, 2]
    with read_body(json.dumps(content).encode(), JSON) as file:
        assert [track.track_id for track in file] == [2]
        assert {(fault.track_id, fault.column, fault.problem) for fault in file.report.faults} == {
            (0, "latitude", "not a number"),
            (1, "altitude", "not a number"),
        }


def test_a_json_track_needs_no_sensor_and_may_have_one_for_all_rows() -> None:
    content = json.loads(as_json(table(2)))
    del content["tracks"][0]["sensor_id"]
    content["tracks"][1]["sensor_id"] = 8
    with read_body(json.dumps(content).encode(), JSON) as file:
        assert [track.measurements[:, 5].tolist() for track in file] == [[0.0] * 5, [8.0] * 5]


def test_a_missing_json_cell_is_filled_like_that_of_a_file() -> None:
    content = json.loads(as_json(table(1)))
    content["tracks"][0]["altitude"][1] = None
    with read_body(json.dumps(content).encode(), JSON) as file:
        assert [track.measurements[1, 3] for track in file] == [89900.0]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda track: track.pop("latitude"), "invalid-value"),
        (lambda track: track.update(speed=[1] * 5), "invalid-value"),
        (lambda track: track.update(latitude=7), "invalid-value"),
        (lambda track: track.update(track_id={"a": 1}), "invalid-value"),
        (lambda track: track["latitude"].pop(), "invalid-value"),
    ],
)
def test_json_of_another_form_is_refused(change: Callable[[dict[str, Any]], object], code: str) -> None:
    content = json.loads(as_json(table()))
    change(content["tracks"][0])
    assert problem_of(json.dumps(content).encode(), JSON).code == code


def test_a_json_body_with_an_unknown_member_is_refused() -> None:
    body = as_json(table())[:-1] + b', "model": "reentry_fast"}'
    with pytest.raises(Problem) as caught:
        read_body(body, JSON)
    assert caught.value.code == "invalid-value"
    assert "unknown field `model`" in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"[]", b'{"tracks": []}', b"\xff\xfe", b"[" * 200_000, b'{"tracks":' * 100_000, b"1e400", b"null"),
        b'{"tracks": [{"track_id": 1e400}]}',
        json.dumps(
            {"tracks": [{"track_id": 2**70, **{c.name: [1.0] for c in TRACK_COLUMNS if c.name != "track_id"}}]}
        ).encode(),
    ],
)
def test_json_that_is_no_table_of_tracks_is_refused(body: bytes) -> None:
    # An id that does not fit is a fault of its rows.
    assert 400 <= status_of(body, JSON) < 500 or b"1180591620717411303424" in body


@pytest.mark.parametrize("media_type", MEDIA_TYPES)
def test_a_missing_column_is_named(media_type: str) -> None:
    body = WRITERS[media_type](table().drop(columns="altitude"))
    assert "altitude" in str(problem_of(body, media_type).content())


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_a_compressed_arrow_stream_is_refused_before_it_is_decoded(compression: str) -> None:
    problem = problem_of(as_arrow(table(), compression=compression), ARROW)
    assert (problem.code, problem.fields["expected"]) == ("unsupported-media-type", "an uncompressed Arrow stream")


def test_an_arrow_stream_with_dictionaries_is_read() -> None:
    frame = table()
    rows = pa.Table.from_pandas(frame, preserve_index=False)
    place = rows.schema.get_field_index("sensor_id")
    rows = rows.set_column(place, "sensor_id", rows.column(place).dictionary_encode())
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    with read_body(sink.getvalue(), ARROW) as file:
        assert [track.measurements[0, 5] for track in file] == [3.0, 3.0]


def test_an_arrow_batch_that_claims_many_rows_is_refused() -> None:
    schema = pa.schema([(column.name, pa.null()) for column in TRACK_COLUMNS])
    many = pa.RecordBatch.from_arrays([pa.nulls(MOST_ROWS + 1)] * len(schema), schema=schema)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(many)
    assert len(sink.getvalue()) < 5_000
    assert problem_of(sink.getvalue(), ARROW).code == "body-too-large"


def test_a_parquet_file_that_claims_many_rows_is_refused() -> None:
    sink = io.BytesIO()
    column = pa.array(np.zeros(MOST_ROWS + 1))
    pa.parquet.write_table(pa.table({c.name: column for c in TRACK_COLUMNS}), sink, compression="zstd")
    assert len(sink.getvalue()) < 100_000
    assert problem_of(sink.getvalue(), PARQUET).code == "body-too-large"


def test_a_parquet_page_that_claims_too_much_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_safety, "LARGEST_DECODED", 2**25)
    texts = pa.array([bytes(2**20)] * 64)
    numbers = pa.array(np.zeros(64))
    columns = {c.name: texts if c.name == "altitude" else numbers for c in TRACK_COLUMNS}
    sink = io.BytesIO()
    pa.parquet.write_table(pa.table(columns), sink, compression="zstd", use_dictionary=False)
    body = sink.getvalue()
    assert len(body) < 2**20
    with memory() as used:
        assert problem_of(body, PARQUET).code == "body-too-large"
    assert used.max_memory() < 2**20


@pytest.mark.parametrize("options", [{}, {"data_page_version": "2.0"}, {"compression": "gzip", "row_group_size": 3}])
def test_parquet_files_of_other_writers_are_read(options: dict[str, Any]) -> None:
    with read_body(as_parquet(table(), **options), PARQUET) as file:
        assert file.track_count == 2


@pytest.mark.parametrize("header", [{1: {}}, {1: 0, 5: 3}, {1: 0, 5: {1: {}}}, {1: 0, 5: {1: 4, 2: {}}}])
def test_a_page_header_whose_fields_have_other_types_is_damaged(header: dict[int, Any]) -> None:
    with pytest.raises(ValueError, match=r"wrong type|more values"):
        arrow_safety._check_page(header, 10, is_text=True)


BODIES = {media_type: write(table(2, 40)) for media_type, write in WRITERS.items()}


@settings(max_examples=150, deadline=None, derandomize=True)
@given(media_type=st.sampled_from(MEDIA_TYPES), data=st.data())
def test_a_damaged_body_is_read_or_refused_and_nothing_else(media_type: str, data: st.DataObject) -> None:
    body = bytearray(BODIES[media_type])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(body) - 1))
        match data.draw(st.sampled_from(["byte", "number", "cut", "repeat"])):
            case "byte":
                body[place] = data.draw(st.integers(0, 255))
            case "number":
                body[place : place + 8] = struct.pack("<q", data.draw(st.sampled_from([-1, 2**62, 2**31, 2**40])))
            case "cut":
                del body[place + 1 :]
            case "repeat":
                body[place:place] = body[: data.draw(st.integers(1, 200))]
    assert status_of(bytes(body), media_type) < 500


@pytest.mark.parametrize(
    ("header", "expected"), [("text/csv; charset=utf-8", CSV), ("Application/JSON", JSON), (PARQUET, PARQUET)]
)
def test_a_media_type_may_have_parameters_and_any_case(header: str, expected: str) -> None:
    assert media_type_of(header) == expected


@pytest.mark.parametrize("header", [None, "", "text/plain", "application/x-www-form-urlencoded"])
def test_another_media_type_is_refused_with_the_list(header: str | None) -> None:
    with pytest.raises(Problem) as caught:
        media_type_of(header)
    assert (caught.value.code, caught.value.fields["expected"]) == ("unsupported-media-type", " or ".join(MEDIA_TYPES))


def test_hostile_bodies_do_not_end_the_process() -> None:
    """Damaged Arrow streams are read in a process of their own, because a fault in native code would end the tests."""
    program = (
        "import random, sys; from gateway.scoring.bodies import *; from gateway.problems import Problem\n"
        "body = sys.stdin.buffer.read(); chance = random.Random(7)\n"
        "for media_type in (ARROW,) * 400:\n"
        "    damaged = bytearray(body)\n"
        "    for _ in range(chance.randint(1, 8)): damaged[chance.randrange(len(body))] = chance.randrange(256)\n"
        "    try: list(read_body(bytes(damaged), media_type))\n"
        "    except Problem: pass\n"
        "print('survived')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=BODIES[ARROW], capture_output=True, check=False, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, b"survived\n"), done.stderr[-2000:]


def with_column(name: str, values: pa.Array) -> pa.Table:
    """Rows of tracks of which one column is replaced."""
    rows = pa.Table.from_pandas(table(1, len(values)), preserve_index=False)
    return rows.set_column(rows.schema.get_field_index(name), name, values)


def parquet_of(rows: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pa.parquet.write_table(rows, sink, **{"compression": "zstd", **options})
    return sink.getvalue()


def arrow_of(rows: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return sink.getvalue()


@pytest.mark.parametrize(
    "values",
    [
        pa.array([[0.0] * 1_000_000]),
        pa.array([{"x": 1.0}]),
        pa.array([[("x", 1.0)]], pa.map_(pa.string(), pa.float64())),
        pa.array([[0.0] * 1_000], pa.list_(pa.float64(), 1_000)),
        pa.array([bytes(2**16)], pa.binary(2**16)),
    ],
    ids=lambda values: str(values.type),
)
def test_a_parquet_column_with_more_than_a_number_in_a_row_is_refused_before_it_is_decoded(values: pa.Array) -> None:
    body = parquet_of(with_column("altitude", values))
    with memory() as used:
        problem = problem_of(body, PARQUET)
    assert (problem.code, problem.fields["where"]) == ("invalid-tracks", "body")
    assert "column altitude is not numeric" in str(problem.content())
    assert used.max_memory() < 2**20


def test_a_nested_column_that_is_not_read_does_not_matter() -> None:
    rows = pa.Table.from_pandas(table(), preserve_index=False).append_column("more", pa.array([[1.0, 2.0]] * 10))
    with read_body(parquet_of(rows), PARQUET) as file:
        assert file.track_count == 2


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_text_that_many_parquet_rows_repeat_is_refused_before_it_is_decoded(kind: pa.DataType) -> None:
    steps = 20_000
    values = pa.DictionaryArray.from_arrays(np.zeros(steps, np.int32), pa.array(["1" * 2**14]))
    body = parquet_of(with_column("altitude", values.cast(kind)))
    assert len(body) < 2**20
    with memory() as used:
        assert problem_of(body, PARQUET).code == "body-too-large"
    assert used.max_memory() < 2**23


@pytest.mark.parametrize("encoding", ["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_parquet_text_in_an_encoding_that_repeats_it_within_a_page_is_refused(encoding: str, version: str) -> None:
    rows = with_column("altitude", pa.array(["91000"] * 5))
    body = parquet_of(
        rows, use_dictionary=False, column_encoding={"altitude": encoding}, data_page_version=version, compression=None
    )
    assert "RLE_DICTIONARY" in str(problem_of(body, PARQUET).content())


@pytest.mark.parametrize("kind", [pa.dictionary(pa.int32(), pa.string()), pa.string_view()], ids=str)
def test_text_that_many_arrow_rows_repeat_is_refused_before_it_is_decoded(kind: pa.DataType) -> None:
    steps = 20_000
    if pa.types.is_dictionary(kind):
        values = pa.DictionaryArray.from_arrays(np.zeros(steps, np.int32), pa.array(["1" * 2**14]))
    else:
        view = struct.pack("<i4sii", 2**14, b"1111", 0, 0)
        buffers = [None, pa.py_buffer(view * steps), pa.py_buffer(b"1" * 2**14)]
        values = pa.Array.from_buffers(pa.string_view(), steps, buffers)
    body = arrow_of(with_column("altitude", values))
    assert len(body) < 2**21
    with memory() as used:
        assert problem_of(body, ARROW).code == "body-too-large"
    assert used.max_memory() < 2**23


@pytest.mark.parametrize("media_type", [PARQUET, ARROW])
@pytest.mark.parametrize("name", ["altitude", "track_id"])
@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())], ids=str
)
def test_numbers_as_text_are_read(media_type: str, name: str, kind: pa.DataType) -> None:
    values = pa.array(["91000"] * 5).dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else None
    rows = with_column(name, pa.array(["91000"] * 5, kind) if values is None else values)
    with read_body({PARQUET: parquet_of, ARROW: arrow_of}[media_type](rows), media_type) as file:
        (track,) = list(file)
    assert (track.track_id if name == "track_id" else track.measurements[4, 3]) == 91000


def counted_batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of batches of each body that is read."""
    found: list[int] = []

    class Counted(TableSource):
        def __init__(self, name: str, batches: Sequence[pa.RecordBatch], schema: pa.Schema) -> None:
            if batches:  # without them, the columns alone are checked
                found.append(len(batches))
            super().__init__(name, batches, schema)

    monkeypatch.setattr(bodies, "TableSource", Counted)
    return found


@pytest.mark.parametrize("name", ["altitude", "track_id"])
@pytest.mark.parametrize("kind", [pa.float64(), pa.string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())])
def test_many_small_arrow_batches_are_read_as_one(
    monkeypatch: pytest.MonkeyPatch, kind: pa.DataType, name: str
) -> None:
    found = counted_batches(monkeypatch)
    frame = table(150, 2)
    rows = pa.Table.from_pandas(frame, preserve_index=False)
    place = rows.schema.get_field_index(name)
    schema = rows.schema.set(place, pa.field(name, kind)).append(pa.field("remark", pa.list_(pa.int8())))
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in rows.to_batches(max_chunksize=1):
            # Each batch has a dictionary of its own; together they would be too large for the type of the index.
            text = pa.array([str(batch.column(name)[0].as_py())])
            value = text.dictionary_encode() if pa.types.is_dictionary(kind) else text
            columns = [*batch.columns, pa.array([[1]], pa.list_(pa.int8()))]
            columns[place] = value.cast(kind)
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
    with read_body(sink.getvalue(), ARROW) as file:
        tracks = list(file)
    assert found == [1]
    assert [track.track_id for track in tracks] == list(range(150))
    assert [track.measurements[1, 3] for track in tracks] == [89_900.0] * 150


@pytest.mark.parametrize("count", [1, 2])
def test_labels_of_an_arrow_body_are_left_out(count: int) -> None:
    rows = pa.Table.from_pandas(table(2), preserve_index=False)
    # As text of a dictionary, which would take much memory for each row.
    labels = pa.array(["0" * 1000] * len(rows)).dictionary_encode()
    rows = rows.append_column("reentry_phase", labels)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        for batch in rows.to_batches(max_chunksize=-(-len(rows) // count)):
            writer.write_batch(batch)
    with read_body(sink.getvalue(), ARROW) as file:
        assert [track.track_id for track in file] == [0, 1]


def test_columns_that_cannot_hold_numbers_are_refused_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.scoring.bodies._decoded", lambda _: pytest.fail("a column was decoded"))
    values = pa.array([b"0" * 1000] * 5, pa.binary(1000)).dictionary_encode()
    rows = with_column("altitude", values)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        for batch in rows.to_batches(max_chunksize=2):
            writer.write_batch(batch)
    with pytest.raises(Problem) as caught:
        read_body(sink.getvalue(), ARROW)
    assert caught.value.code == "invalid-tracks"


def test_many_small_row_groups_with_faults_are_read_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    found = counted_batches(monkeypatch)
    altitudes = ["high", *(str(90_000.0 - 50 * step) for step in range(4))]
    with read_body(parquet_of(with_column("altitude", pa.array(altitudes)), row_group_size=1), PARQUET) as file:
        list(file)
        assert [fault.row for fault in file.report.faults] == [0]
    assert found == [1]


def test_json_tracks_with_faults_are_read_together(monkeypatch: pytest.MonkeyPatch) -> None:
    found = counted_batches(monkeypatch)
    content = json.loads(as_json(table(200)))
    content["tracks"][7]["altitude"][0] = "high"
    with read_body(json.dumps(content).encode(), JSON) as file:
        assert len(list(file)) == 199
        assert [(fault.track_id, fault.row) for fault in file.report.faults] == [(7, 35)]
    assert found == [1]


@pytest.mark.parametrize("options", [{}, {"data_page_version": "2.0"}, {"use_dictionary": False}])
def test_parquet_columns_of_other_number_types_are_read(options: dict[str, Any]) -> None:
    rows = with_column("altitude", pa.array([91000] * 5).cast(pa.decimal128(25, 2)))
    for name, kind in (("latitude", pa.float32()), ("sensor_id", pa.uint8())):
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(place, name, rows[name].cast(kind))
    with read_body(parquet_of(rows, **options), PARQUET) as file:
        (track,) = list(file)
    assert track.measurements[:, 3].tolist() == [91000.0] * 5


def test_two_arrow_streams_in_one_body_are_refused() -> None:
    both = as_arrow(table()) + as_arrow(table())
    problem = problem_of(both, ARROW)
    assert (problem.code, problem.fields["expected"]) == ("invalid-request", f"one stream of {len(both) // 2:,} bytes")


def test_an_arrow_stream_without_a_mark_of_its_end_is_read() -> None:
    with read_body(as_arrow(table()).removesuffix(b"\xff\xff\xff\xff\0\0\0\0"), ARROW) as file:
        assert file.track_count == 2


@pytest.mark.parametrize("track_id", [7, 7.0, "7", "7.0", "+7", "7e0"])
def test_json_tracks_with_the_same_id_are_faults(track_id: object) -> None:
    content = json.loads(as_json(table(3)))
    content["tracks"][0]["track_id"] = 7
    content["tracks"][2]["track_id"] = track_id
    problem = problem_of(json.dumps(content).encode(), JSON)
    assert problem.code == "invalid-value"
    (fault,) = problem.content()["faults"]
    assert (fault["where"], fault["problem"]) == ("tracks[2]", "the same track_id as tracks[0]")


def test_json_tracks_with_unreadable_ids_are_faults_of_their_rows() -> None:
    content = json.loads(as_json(table(3)))
    content["tracks"][0]["track_id"] = content["tracks"][1]["track_id"] = None
    with read_body(json.dumps(content).encode(), JSON) as file:
        assert [track.track_id for track in file] == [2]
        assert [len(each.rows) for each in file.report.set_aside] == [10]


def test_a_large_json_body_is_refused_before_it_is_decoded() -> None:
    problem = problem_of(b"[" + b"0," * (LARGEST_JSON // 2) + b"0]", JSON)
    assert (problem.code, problem.fields["expected"]) == ("body-too-large", "at most 8,388,608 bytes")
    assert "Arrow" in str(problem.fields["fix"])
