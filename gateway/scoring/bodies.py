"""Bodies of requests with tracks: JSON, CSV, Parquet and Arrow, all read by the one reader of `reentry.tracks`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

from gateway.problems import Problem
from gateway.scoring.arrow_safety import check_arrow_stream, check_parquet, check_text, text_bytes
from reentry.errors import TrackFileError
from reentry.schema import LARGEST_REQUEST, SENSOR_ID, TRACK_COLUMNS, TRACK_ID
from reentry.tracks import RepairConfig, TrackFile, read_tracks
from reentry.tracks.sources import TableSource

JSON: Final = "application/json"
CSV: Final = "text/csv"
PARQUET: Final = "application/vnd.apache.parquet"
ARROW: Final = "application/vnd.apache.arrow.stream"
MEDIA_TYPES: Final = (JSON, CSV, PARQUET, ARROW)
"""Types of the bodies that can be read and answered."""

_MERGED_ROWS: Final = 65_536
"""Rows of a merged batch."""
MOST_ROWS: Final = 4 * LARGEST_REQUEST
"""Rows of the largest request. A larger file is the matter of a job."""

LARGEST_JSON: Final = 8 * 2**20
"""Bytes of the largest JSON body. Decoding takes many times the memory, and holds up all other requests."""

_NAME: Final = "body"
"""Name of the table in errors, in place of the name of a file."""
_COLUMNS: Final = tuple(column.name for column in TRACK_COLUMNS)
_CELLS: Final = tuple(column.name for column in TRACK_COLUMNS if column is not TRACK_ID)

Numbers = list[float | None]
Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class JsonTrack(msgspec.Struct, forbid_unknown_fields=True):
    """One track: a list for each column, with one entry for each measurement."""

    track_id: Annotated[Id, msgspec.Meta(description="Identifies the flight.")]
    timestamp: Annotated[list[float], msgspec.Meta(description="Unix time, s.")]
    latitude: Annotated[Numbers, msgspec.Meta(description="Degrees, north positive; null if it is missing.")]
    longitude: Annotated[Numbers, msgspec.Meta(description="Degrees, east positive.")]
    altitude: Annotated[Numbers, msgspec.Meta(description="Metres above sea level.")]
    radiometric_intensity: Annotated[Numbers, msgspec.Meta(description="Relative brightness.")]
    sensor_id: Annotated[Id | list[Id], msgspec.Meta(description="One sensor, or that of each measurement.")] = 0


class JsonTracks(msgspec.Struct, forbid_unknown_fields=True):
    """Tracks as JSON."""

    tracks: Annotated[list[JsonTrack], msgspec.Meta(min_length=1)]


_DECODER: Final = msgspec.json.Decoder(JsonTracks)


def media_type_of(header: str | None) -> str:
    """Return the media type of a Content-Type header, without its parameters.

    Raises:
        Problem: the type is missing or cannot be read.
    """
    media_type = (header or "").partition(";")[0].strip().lower()
    if media_type not in MEDIA_TYPES:
        raise Problem(
            "unsupported-media-type",
            "tracks of this type cannot be read",
            where="Content-Type",
            expected=" or ".join(MEDIA_TYPES),
            got=media_type or "no Content-Type",
        )
    return media_type


def read_body(body: bytes, media_type: str) -> TrackFile:
    """Read the tracks of a body. Close the result after use.

    Args:
        body: the body, whose size is bounded by the caller.
        media_type: one of `MEDIA_TYPES`.

    Raises:
        Problem: the body as a whole is unusable. A bad track is listed in the report of the result instead.
    """
    if not body:
        raise Problem("invalid-request", "the body is empty", where=_NAME, expected=f"tracks as {media_type}")
    try:
        if media_type == CSV:
            return _read_csv(body)
        reader = {JSON: _json_batches, PARQUET: _parquet_batches, ARROW: _arrow_batches}[media_type]
        batches, schema = reader(body)
        source = TableSource(_NAME, batches, schema)
        return TrackFile(source, labelled=False, config=RepairConfig(), in_memory_bytes=sys.maxsize)
    except TrackFileError as error:
        raise Problem.of("invalid-tracks", error, where=_NAME) from error


def arrow_stream_of_json(body: bytes) -> bytes:
    """Return the tracks of a JSON body as an Arrow stream.

    Raises:
        Problem: the body is unusable.
    """
    batches, schema = _json_batches(body)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as stream:
        for batch in batches:
            stream.write_batch(batch)
    return bytes(sink.getvalue())


def _read_csv(body: bytes) -> TrackFile:
    if (lines := body.count(b"\n")) > MOST_ROWS + 1:
        raise _too_many_rows(lines)
    with tempfile.NamedTemporaryFile(suffix=".csv") as file:
        file.write(body)
        file.flush()
        try:
            return read_tracks(Path(file.name), in_memory_bytes=sys.maxsize)
        except TrackFileError as error:
            # The client does not know the name of the temporary file.
            raise Problem.of("invalid-tracks", error, where=_NAME) from error


def _json_batches(body: bytes) -> tuple[list[pa.RecordBatch], pa.Schema]:
    if len(body) > LARGEST_JSON:
        raise Problem(
            "body-too-large",
            "the JSON body is too large",
            where=_NAME,
            expected=f"at most {LARGEST_JSON:,} bytes",
            got=f"{len(body):,} bytes",
            fix="send the tracks as Arrow, Parquet or CSV, or fewer tracks in one request",
        )
    try:
        tracks = _DECODER.decode(body).tracks
    except msgspec.ValidationError as error:
        return _json_with_faults(body, error)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Problem("invalid-request", f"not JSON: {error}"[:300], where=_NAME, expected="a JSON object") from error
    return _table([msgspec.structs.asdict(track) for track in tracks])


def _json_with_faults(body: bytes, error: msgspec.ValidationError) -> tuple[list[pa.RecordBatch], pa.Schema]:
    """Read tracks with cells that are not numbers as text, so that the reader reports all faults of all tracks."""
    try:
        content = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError) as fault:
        raise Problem("invalid-request", f"not JSON: {fault}"[:300], where=_NAME) from fault
    tracks = content["tracks"] if isinstance(content, dict) and set(content) == {"tracks"} else None
    columns = {*_CELLS, TRACK_ID.name}
    is_table = isinstance(tracks, list) and all(
        isinstance(track, dict)
        and set(track) <= columns
        and columns - set(track) <= {SENSOR_ID.name}
        and not isinstance(track[TRACK_ID.name], dict | list)
        and all(isinstance(track[name], list) for name in _CELLS if name != SENSOR_ID.name)
        for track in tracks
    )
    if not tracks or not is_table:
        raise Problem(
            "invalid-value",
            str(error),
            where=_NAME,
            expected=f"an object with `tracks` alone, each with track_id and lists {', '.join(_CELLS)}",
        ) from error
    texts = [
        {
            name: [_text(cell) for cell in value] if isinstance(value, list) else _text(value)
            for name, value in each.items()
        }
        for each in tracks
    ]
    return _table(texts, kind=pa.string())


def _text(cell: object) -> str | None:
    return None if cell is None else cell if isinstance(cell, str) else msgspec.json.encode(cell).decode()[:100]


def _table(tracks: list[dict[str, Any]], kind: pa.DataType | None = None) -> tuple[list[pa.RecordBatch], pa.Schema]:
    """Return a batch of rows for each track, whose columns must have the same length and whose id must be its own.

    Args:
        tracks: columns of each track by name; the ids may be single values.
        kind: type of all cells; None for numbers.
    """
    faults = []
    batches = []
    rows = 0
    seen: dict[Any, int] = {}
    for number, track in enumerate(tracks):
        track_id = track[TRACK_ID.name]
        first = seen.setdefault(_number(track_id), number)
        if first != number and track_id is not None:
            problem = f"the same track_id as tracks[{first}]"
            faults.append({"where": f"tracks[{number}]", "problem": problem, "got": str(track_id)})
            continue
        lengths = {name: len(track[name]) for name in _CELLS if isinstance(track.get(name), list)}
        if len(set(lengths.values())) > 1:
            faults.append({"where": f"tracks[{number}]", "problem": "columns of different length", "got": str(lengths)})
            continue
        length = lengths["timestamp"]
        rows += length
        if rows > MOST_ROWS:
            raise _too_many_rows(rows)
        repeated = {TRACK_ID.name: track[TRACK_ID.name], SENSOR_ID.name: track.get(SENSOR_ID.name, "0" if kind else 0)}
        columns = {}
        for column in TRACK_COLUMNS:
            cells = repeated.get(column.name, track.get(column.name))
            cells = cells if isinstance(cells, list) else [cells] * length
            integer = column in (TRACK_ID, SENSOR_ID)
            columns[column.name] = pa.array(cells, kind or (pa.int64() if integer else pa.float64()))
        batches.append(pa.RecordBatch.from_pydict(columns))
    if faults:
        raise Problem("invalid-value", f"{len(faults)} unusable tracks", where=_NAME, faults=faults)
    return _merged(batches, batches[0].schema)


def _number(track_id: int | str | None) -> int | float | str | None:
    """Return an id as the number that the reader makes of its text, if it does."""
    for kind in (int, float):
        try:
            return kind(track_id)  # type: ignore[arg-type]  # a missing id raises an error
        except (TypeError, ValueError):
            continue
    return track_id


def _arrow_batches(body: bytes) -> tuple[list[pa.RecordBatch], pa.Schema]:
    check_arrow_stream(body, most_rows=MOST_ROWS)
    try:
        source = pa.BufferReader(body)
        with pyarrow.ipc.open_stream(source) as reader:
            batches = list(reader)
            end = source.tell()
            for batch in batches:
                batch.validate(full=True)
            _ = reader.schema.names  # raises an error here if a name is not UTF-8
            check_text(sum(text_bytes(batch, _COLUMNS) for batch in batches))
            batches, schema = _merged(batches, reader.schema)
    except (pa.ArrowException, OSError, ValueError, LookupError, MemoryError, UnicodeDecodeError) as error:
        raise Problem("invalid-request", f"not an Arrow stream: {error}"[:300], where=_NAME) from error
    if end != len(body):
        raise Problem(
            "invalid-request",
            "more bytes follow the Arrow stream",
            where=_NAME,
            expected=f"one stream of {end:,} bytes",
            got=f"{len(body):,} bytes",
            fix="write all record batches to one stream",
        )
    return batches, schema


def _parquet_batches(body: bytes) -> tuple[list[pa.RecordBatch], pa.Schema]:
    check_parquet(body, most_rows=MOST_ROWS, columns=_COLUMNS)
    try:
        # Text that is repeated in many rows is kept once.
        file = pyarrow.parquet.ParquetFile(
            pa.BufferReader(body), page_checksum_verification=True, read_dictionary=list(_COLUMNS)
        )
        names = [name for name in _COLUMNS if name in file.schema_arrow.names]
        batches, rows, texts = [], 0, 0
        for batch in file.iter_batches(columns=names):
            rows += batch.num_rows
            if rows > MOST_ROWS:
                raise _too_many_rows(rows)
            batch.validate(full=True)
            texts += text_bytes(batch, names)
            check_text(texts)
            batches.append(batch)
        return _merged(batches, pa.schema([file.schema_arrow.field(name) for name in names]))
    except (pa.ArrowException, OSError, ValueError, LookupError, MemoryError, UnicodeDecodeError) as error:
        raise Problem("invalid-request", f"not a Parquet file: {error}"[:300], where=_NAME) from error


def _merged(batches: list[pa.RecordBatch], schema: pa.Schema) -> tuple[list[pa.RecordBatch], pa.Schema]:
    """Return the columns that are scored in a few large batches, without labels and columns of other names.

    The reader takes about 20 ms to find the faults of a batch, also if it has a single row.

    Raises:
        TrackFileError: a column is missing, repeated, or of a type that cannot hold numbers.
    """
    TableSource(_NAME, [], schema)  # refuses such columns before one is decoded
    names = [name for name in schema.names if name in _COLUMNS]
    if len(batches) < 2:
        batches = [batch.select(names) for batch in batches]
        return batches, pa.schema([schema.field(name) for name in names])
    columns = [pa.chunked_array([_decoded(batch.column(name)) for batch in batches]) for name in names]
    table = pa.table(columns, names=names).combine_chunks()
    return list(table.to_batches(max_chunksize=_MERGED_ROWS)), table.schema


def _decoded(column: pa.Array) -> pa.Array:
    """Return a column without a dictionary, because the dictionaries of two batches may not fit into one."""
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _too_many_rows(rows: int) -> Problem:
    return Problem(
        "body-too-large",
        "too many rows for one request",
        where=_NAME,
        expected=f"at most {MOST_ROWS:,} rows",
        got=f"{rows:,} rows",
        fix="create a job: POST /v1/jobs",
    )
