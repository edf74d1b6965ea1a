"""Answers to requests with tracks: JSON, CSV, Parquet and Arrow.

Shapes: N rows of the body.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet

from client.journal import Score
from client.outputs import REFINED, TrackResult
from client.scoring import Refusal
from gateway.scoring.bodies import ARROW, CSV, JSON, PARQUET
from gateway.scoring.fallback import MODEL_NAME as RULE
from reentry.schema import PHASE, PROBABILITY, TRACK_ID
from reentry.tracks import Track, TrackFile

RESULTS: Final = ("rows", "tracks")
"""Tables that a CSV, Parquet or Arrow answer can contain."""
METADATA: Final = b"reentry"
"""Key of the schema's metadata, in Arrow and Parquet, with the answer for each track as JSON."""

_DIGITS: Final = 6


class ScoredTrack(msgspec.Struct, omit_defaults=True):
    """Answer for one track."""

    track_id: int
    rows: Annotated[int, msgspec.Meta(description="Number of rows of the track in the body.")]
    onset_row: Annotated[
        int | None,
        msgspec.Meta(
            description="Row of the onset among the track's rows in time order, from 0; null without an onset."
        ),
    ]
    onset_timestamp: Annotated[float | None, msgspec.Meta(description="Unix time of the onset, s.")]
    model: Annotated[str, msgspec.Meta(description="Model that answered.")]
    model_version: Annotated[
        int | None, msgspec.Meta(description="Version of the network; null for the altitude-fraction rule.")
    ]
    degraded: Annotated[bool, msgspec.Meta(description="Whether the altitude-fraction rule answered.")]
    refined_onset_timestamp: Annotated[
        float | None, msgspec.Meta(description="Onset by the measurements after the alarm, Unix time, s.")
    ] = None
    refined_onset_deviation: Annotated[float | None, msgspec.Meta(description="Its standard deviation, s.")] = None
    hindsight_seconds: Annotated[
        float | None, msgspec.Meta(description="Time from the onset to the last measurement of the refined onset, s.")
    ] = None
    unlike_training: Annotated[
        list[str] | None,
        msgspec.Meta(description="Quantities outside the range of the training data; null if they were not compared."),
    ] = None
    reentry_probability: Annotated[
        list[float] | None, msgspec.Meta(description="Probability of reentry at each row, in the order of the body.")
    ] = None
    reentry_phase: Annotated[
        list[int] | None, msgspec.Meta(description="Phase at each row, in the order of the body: 1 in reentry, else 0.")
    ] = None


class RowFault(msgspec.Struct):
    """One problem in one column of a track."""

    problem: str
    row: Annotated[int | None, msgspec.Meta(description="First row of the body with the fault, from 0.")] = None
    column: str | None = None
    got: str | None = None
    rows: Annotated[int, msgspec.Meta(description="Number of rows with the fault.")] = 1


class RefusedTrack(msgspec.Struct):
    """A track that could not be scored, with all its faults."""

    track_id: Annotated[int | None, msgspec.Meta(description="Null for the rows whose track_id is unreadable.")]
    rows: int
    faults: list[RowFault]


class Answer(msgspec.Struct):
    """Answer to a request with tracks."""

    degraded: Annotated[bool, msgspec.Meta(description="Whether any track was answered by the altitude-fraction rule.")]
    tracks: Annotated[list[ScoredTrack], msgspec.Meta(description="Scored tracks in order of first appearance.")]
    refused: list[RefusedTrack]
    repairs: Annotated[
        dict[str, int], msgspec.Meta(description="Repairs of the rows before scoring, by kind, with their number.")
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """One track of a body with its outcome."""

    track: Track
    model: str
    """Name of the model."""
    outcome: Score | Refusal


def answer_of(file: TrackFile, scored: Sequence[Scored]) -> Answer:
    """Return the answer without the results of the rows."""
    refused = _refused(file)
    tracks = []
    for each in scored:
        if isinstance(each.outcome, Refusal):
            fault = RowFault(problem=f"refused by the model: {each.outcome.reason}")
            refused.append(RefusedTrack(each.track.track_id, len(each.track.rows), [fault]))
            continue
        result = TrackResult.of(each.track, each.outcome)
        is_rule = each.model == RULE
        tracks.append(
            ScoredTrack(
                track_id=result.track_id,
                rows=result.rows,
                onset_row=result.onset_row,
                onset_timestamp=result.onset_timestamp,
                model=each.model,
                model_version=None if is_rule else result.model_version,
                degraded=is_rule,
                refined_onset_timestamp=result.refined_onset_timestamp,
                refined_onset_deviation=result.refined_onset_deviation,
                hindsight_seconds=result.hindsight_seconds,
                unlike_training=None if result.unlike_training is None else list(result.unlike_training),
            )
        )
    repairs = {str(kind): count for kind, count in file.report.repairs.items()}
    return Answer(any(track.degraded for track in tracks), tracks, refused, repairs)


def encode(answer: Answer, file: TrackFile, scored: Sequence[Scored], media_type: str, result: str) -> bytes:
    """Return the body of an answer.

    Args:
        answer: the answer of `answer_of`; its rows are added for JSON.
        file: the tracks of the body.
        scored: the tracks with their outcomes.
        media_type: one of `MEDIA_TYPES`.
        result: one of `RESULTS`, the table of a CSV, Parquet or Arrow answer.
    """
    if media_type == JSON:
        if result == "rows":
            _add_rows(answer, scored)
        return msgspec.json.encode(answer)
    table = _rows_table(file, scored) if result == "rows" else _tracks_table(answer)
    if media_type != CSV:
        table = table.replace_schema_metadata({METADATA: msgspec.json.encode(answer)})
    sink = pa.BufferOutputStream()
    if media_type == CSV:
        pyarrow.csv.write_csv(table, sink, pyarrow.csv.WriteOptions(quoting_style="needed"))
    elif media_type == PARQUET:
        pyarrow.parquet.write_table(table, sink)
    else:
        assert media_type == ARROW
        with pyarrow.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    body: bytes = sink.getvalue().to_pybytes()
    return body


def _refused(file: TrackFile) -> list[RefusedTrack]:
    """Return the tracks that the reader set aside, with all their faults."""
    faults: dict[int | None, list[RowFault]] = {}
    for fault in file.report.faults:
        found = RowFault(fault.problem, fault.row, fault.column, fault.got, fault.count)
        faults.setdefault(fault.track_id, []).append(found)
    return [
        RefusedTrack(each.track_id, len(each.rows), faults.get(each.track_id) or [RowFault(each.reason)])
        for each in file.report.set_aside
    ]


def _add_rows(answer: Answer, scored: Sequence[Scored]) -> None:
    """Add the results of the rows, in the order of the body, to the tracks of an answer."""
    scores = [(each.track, each.outcome) for each in scored if isinstance(each.outcome, Score)]
    for entry, (track, score) in zip(answer.tracks, scores, strict=True):
        order = track.steps
        if (np.diff(track.rows) < 0).any():  # the rows were sorted into time order
            order = order[np.argsort(track.rows, kind="stable")]
        entry.reentry_probability = score.probability[order].astype(np.float64).round(_DIGITS).tolist()
        entry.reentry_phase = score.phase[order].tolist()


def _rows_table(file: TrackFile, scored: Sequence[Scored]) -> pa.Table:
    """Return one row for each row of the body, in its order; null where the row was not scored."""
    known = [(each.rows, each.track_id) for each in file.report.set_aside if each.track_id is not None]
    known += [(item.track.rows, item.track.track_id) for item in scored]
    scores = [(item.track, item.outcome) for item in scored if isinstance(item.outcome, Score)]
    ids = _column(
        np.int64, file.row_count, [rows for rows, _ in known], [np.full(len(rows), each) for rows, each in known]
    )
    rows = [track.rows for track, _ in scores]
    probability = [score.probability[track.steps] for track, score in scores]
    phase = [score.phase[track.steps] for track, score in scores]
    return pa.table(
        {
            TRACK_ID.name: ids,
            PROBABILITY.name: _column(np.float32, file.row_count, rows, probability),
            PHASE.name: _column(np.uint8, file.row_count, rows, phase),
        }
    )


def _column(
    kind: type[np.generic], size: int, rows: Sequence[npt.NDArray[np.int64]], values: Sequence[npt.NDArray[Any]]
) -> pa.Array:
    """Return a column with values in some rows, and null in the others.

    Args:
        kind: type of the values.
        size: number of rows.
        rows: numbers of rows, which are all different, in several parts.
        values: value of each of these rows.
    """
    if not rows:
        return pa.array(np.zeros(size, kind), mask=np.ones(size, np.bool_))
    place = np.concatenate(rows)
    is_whole = len(place) == size
    if is_whole and (place[1:] > place[:-1]).all():  # all rows in order, as in most bodies
        return pa.array(np.concatenate(values))
    column = np.zeros(size, kind)
    column[place] = np.concatenate(values)
    if is_whole:
        return pa.array(column)
    missing = np.ones(size, np.bool_)
    missing[place] = False
    return pa.array(column, mask=missing)


def _tracks_table(answer: Answer) -> pa.Table:
    """Return one row for each track, those that were refused last, with the problem instead of results."""
    columns: dict[str, pa.DataType] = {
        "track_id": pa.int64(),
        "rows": pa.int64(),
        "onset_row": pa.int64(),
        "onset_timestamp": pa.float64(),
        **dict.fromkeys(REFINED, pa.float64()),
        "model": pa.string(),
        "model_version": pa.int64(),
        "degraded": pa.bool_(),
        "unlike_training": pa.string(),
        "problem": pa.string(),
    }
    records = [
        {name: getattr(track, name, None) for name in columns}
        | {"unlike_training": None if track.unlike_training is None else " ".join(track.unlike_training)}
        for track in answer.tracks
    ]
    for refused in answer.refused:
        problem = "; ".join(_fault_text(fault) for fault in refused.faults)
        records.append({"track_id": refused.track_id, "rows": refused.rows, "problem": problem})
    cells = {name: [record.get(name) for record in records] for name in columns}
    return pa.table({name: pa.array(cells[name], kind) for name, kind in columns.items()})


def _fault_text(fault: RowFault) -> str:
    place = "" if fault.row is None else f"row {fault.row}: "
    return f"{place}{fault.column + ': ' if fault.column else ''}{fault.problem}"
