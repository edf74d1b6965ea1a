"""Scores the tracks of a pandas DataFrame through a Triton server, from a script or a notebook.

Shapes: N rows of the DataFrame.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from client.batching import BatchConfig
from client.connection import Connection, Endpoint
from client.journal import Score
from client.outputs import NOT_SCORED, REFINED, RowResults, TrackResult
from client.retry import Retry, RetryConfig
from client.routing import Routing
from client.scoring import Outcome, score
from reentry.errors import ConfigError, InputError
from reentry.schema import PHASE, PROBABILITY, SENSOR_ID, TRACK_ID
from reentry.tracks import RepairConfig, TrackFile
from reentry.tracks.formats import check_columns
from reentry.tracks.sources import Chunk, Source

_NAME: Final = Path("DataFrame")
"""Name of the table in errors, in place of the name of a file."""
_CONCURRENCY: Final = 4
_IDS: Final = (TRACK_ID.name, SENSOR_ID.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameScores:
    """Results for the tracks of a DataFrame."""

    rows: pd.DataFrame
    """`reentry_probability` and `reentry_phase` of each row, with the index of the DataFrame; missing if the row was
    set aside."""
    tracks: pd.DataFrame
    """`track_id`, `rows`, `onset_row`, `onset_timestamp`, `refined_onset_timestamp`, `refined_onset_deviation`,
    `hindsight_seconds` and `model_version` of each scored track, in order of first appearance. `onset_row` is the
    zero-based row of the onset among the track's rows in time order; it is missing if the track never enters reentry.
    The refined onset, which uses the measurements after the alarm, is missing if it is unknown."""
    set_aside: pd.DataFrame
    """`track_id`, number of `rows` and `reason` of each track that could not be scored."""


class Reentry:
    """A Triton server that serves the models of this project.

    Example:
        scores = Reentry("http://127.0.0.1:8000").score(pandas.read_csv("tracks.csv"))
        print(scores.tracks)
    """

    def __init__(self, url: str = "grpc://127.0.0.1:8001", *, timeout: float = 60.0, patience: float = 60.0) -> None:
        """Set the address of a server; nothing is sent yet.

        Args:
            url: grpc://HOST:PORT or http://HOST:PORT.
            timeout: longest wait for one answer, s.
            patience: time without any answer after which `score` gives up, s.

        Raises:
            ConfigError: the URL has another form, or a time is out of range.
        """
        if not timeout > 0.0:
            raise ConfigError("timeout out of range", expected="more than 0 s", got=str(timeout))
        self._endpoint = Endpoint.parse(url)
        self._timeout = timeout
        self._retry = RetryConfig(patience=patience)

    def score(self, tracks: pd.DataFrame) -> FrameScores:
        """Score every track of a table.

        Rows are validated and repaired like the rows of a file. An invalid track is set aside, and the others are
        scored. The call blocks until all tracks are scored. It also works while an event loop runs, as in a notebook.

        Args:
            tracks: one row for each measurement, with the columns of `reentry.schema.TRACK_COLUMNS` in any order.

        Raises:
            InputError: the argument is not a DataFrame, a column is missing, or there are no rows.
            ClientError: the server did not answer, or its answer is invalid.
        """
        if not isinstance(tracks, pd.DataFrame):
            raise InputError("not a table of tracks", expected="a pandas DataFrame", got=type(tracks).__name__)
        source = _FrameSource(tracks)
        with TrackFile(source, labelled=False, config=RepairConfig(), in_memory_bytes=sys.maxsize) as file:
            return _frame_scores(tracks.index, file, _run(self._score_all(file)))

    async def _score_all(self, file: TrackFile, *, fast: bool = True) -> list[Outcome]:
        retry = Retry(self._endpoint, self._retry)
        outcomes = []
        async with Connection(self._endpoint, timeout=self._timeout) as connection:
            routing = await Routing.of(connection, retry, BatchConfig(), fast=fast)
            todo = routing.requests(file)
            async with aclosing(score(todo, connection, retry, concurrency=_CONCURRENCY)) as answers:
                async for answer in answers:
                    outcomes += answer
        versions = {outcome.model_version for _, outcome in outcomes if isinstance(outcome, Score)}
        if fast and len(versions) > 1:  # during a promotion the two models may serve different versions
            return await self._score_all(file, fast=False)
        return outcomes


class _FrameSource(Source):
    """Rows of a DataFrame as a source of tracks, in their order."""

    def __init__(self, frame: pd.DataFrame) -> None:
        columns = tuple(map(str, frame.columns))
        check_columns(_NAME, columns)
        super().__init__(_NAME, columns, 0)
        self._frame = frame.set_axis(pd.RangeIndex(len(frame))).set_axis(list(columns), axis="columns")

    def chunks(self) -> Iterator[Chunk]:
        """See `Source.chunks`."""
        yield Chunk(first=0, rows=len(self._frame), numbers=None, cells=self._cells)

    def _cells(self) -> pd.DataFrame:
        chunk = {}
        for name in self.track_columns:
            cells = self._frame[name]
            if name in _IDS:
                cells = cells.astype(object).map(str, na_action="ignore").astype("category")
            elif not (pd.api.types.is_float_dtype(cells) or pd.api.types.is_integer_dtype(cells)):
                cells = cells.astype(object)
            chunk[name] = cells
        return pd.DataFrame(chunk, index=self._frame.index)


def _run(work: Coroutine[Any, Any, list[Outcome]]) -> list[Outcome]:
    """Run a coroutine to its end, in another thread if this one already runs an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(asyncio.run, work).result()


def _frame_scores(index: pd.Index[Any], file: TrackFile, outcomes: list[Outcome]) -> FrameScores:
    rows = RowResults(len(index))
    scored, refused = [], [(s.track_id, len(s.rows), s.reason) for s in file.report.set_aside]
    for track, outcome in outcomes:
        if isinstance(outcome, Score):
            rows.take(track, outcome)
            scored.append(TrackResult.of(track, outcome))
        else:
            refused.append((track.track_id, len(track.rows), outcome.reason))
    phase = pd.arrays.IntegerArray(rows.phase, mask=rows.phase == NOT_SCORED)
    columns = {"track_id": "int64", "rows": "int64", "onset_row": "Int64", "onset_timestamp": "float64"}
    columns |= dict.fromkeys(REFINED, "float64") | {"model_version": "int64"}
    scored.sort(key=lambda result: result.first_row)
    return FrameScores(
        rows=pd.DataFrame({PROBABILITY.name: rows.probability, PHASE.name: phase}, index=index),
        tracks=pd.DataFrame(
            [{name: getattr(result, name) for name in columns} for result in scored], columns=list(columns)
        ).astype(columns),
        set_aside=pd.DataFrame(refused, columns=["track_id", "rows", "reason"]).astype(
            {"track_id": "Int64", "rows": "int64"}
        ),
    )
