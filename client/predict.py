"""Scores a file of tracks through a Triton server: read, ask, keep in the journal, write the results."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np

from client.batching import BatchConfig, RequestBatch, batches
from client.connection import Connection, Endpoint
from client.journal import Journal, Score
from client.likeness import Likeness, Unlike
from client.outputs import OutputFiles, RowResults, TrackResult, write_outputs
from client.retry import Retry, RetryConfig
from client.scoring import Refusal, score
from reentry import __version__
from reentry.errors import ClientError, InputError
from reentry.runtime.arguments import require_between
from reentry.runtime.files import remove_leftovers, writing
from reentry.runtime.progress import progress
from reentry.runtime.signals import ended_by_signals, run_until_ended
from reentry.schema import ENSEMBLE
from reentry.tracks import SetAside, Track, TrackFile, fingerprint, read_tracks
from reentry.tracks.formats import PARQUET_SUFFIXES, file_format
from reentry.tracks.sources import open_source, row_texts

JOURNAL_NAME = ".predict.journal"

_SAME: Final = 1e-5
"""Most by which a probability of one model differs between processors and batches."""
_MOST_IN_FLIGHT: Final = 10_000
_LONGEST_TIMEOUT: Final = 86_400
"""s, a day."""
_MOST_STARTS = 3
"""Times a file is begun again because the model behind the address was replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictConfig:
    """How a file is scored."""

    source: Path
    """CSV or Parquet of tracks."""
    out: Path
    """Folder of the results."""
    url: str = "grpc://127.0.0.1:8001"
    """Where Triton listens, grpc:// or http://."""
    concurrency: int = 4
    """Requests in flight at once."""
    timeout: float = 60.0
    """s, the longest wait for the answer to one request."""
    batching: BatchConfig = field(default_factory=BatchConfig)
    """How tracks are grouped into requests."""
    retry: RetryConfig = field(default_factory=RetryConfig)
    """How a silent server is asked again."""

    def __post_init__(self) -> None:
        require_between("requests in flight", self.concurrency, 1, _MOST_IN_FLIGHT)
        require_between("timeout", self.timeout, 0.001, _LONGEST_TIMEOUT, unit="s")
        Endpoint.parse(self.url)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringSummary:
    """What came of it."""

    files: OutputFiles
    rows: int
    """Of the file."""
    rows_scored: int
    tracks: int
    """Scored, of which `resumed` by an earlier run."""
    resumed: int
    onsets: int
    """Tracks that enter reentry."""
    set_aside: int
    """Tracks that were not scored."""
    rows_set_aside: int
    """Rows that were not scored: those of these tracks, and those whose track id cannot be read."""
    model_version: int | None
    """None where no track was scored."""
    seconds: float
    """Of asking the server; reading and writing not counted."""
    unlike_training: list[Unlike] | None = None
    """Quantities in which tracks lie outside the range of the training; None if the server does not know."""
    notes: str
    """What was repaired and set aside in reading, in words."""

    def to_json(self) -> str:
        """For scripts; paths as text."""
        return json.dumps(asdict(self), default=str)

    def summary(self) -> str:
        """For people."""
        lines = [
            f"{_count(self.tracks, 'track')} ({self.rows_scored:,} of {self.rows:,} rows)"
            + f" scored in {self.seconds:.1f} s"
            + (f" by model version {self.model_version}" if self.model_version is not None else "")
            + (f", {self.resumed:,} of them in an earlier run" if self.resumed else ""),
            f"{self.onsets:,} {'enters' if self.onsets == 1 else 'enter'} reentry",
            self.notes,
            f"results: {self.files.predictions}, {self.files.onsets.name}, {self.files.inference.name}",
        ]
        if self.files.set_aside is not None:
            rows = _count(self.rows_set_aside, "row")
            what = f"{_count(self.set_aside, 'track')}, {rows}" if self.set_aside else f"{rows} of no track"
            lines.append(f"set aside, not scored: {what}, see {self.files.set_aside}")
        return "\n".join(line for line in lines if line)


class _ModelChangedError(Exception):
    """A track was answered by another model than those before it; the text says how that is known."""


def predict_with_server(config: PredictConfig, repository: Path | None) -> ScoringSummary:
    """`predict_file`, through an embedded server of its own that serves `repository`, if one is given.

    Raises:
        ServerError: the server did not start.
        Ended: a signal asked for the end; the server is gone, the journal is kept.
    """
    with ended_by_signals():
        if repository is None:
            return predict_file(config)
        from reentry.serving import EmbeddedServer, ServerConfig

        ports_of_its_own = ServerConfig(model_repository=repository, http_port=0, grpc_port=0, metrics_port=0)
        with EmbeddedServer(ports_of_its_own) as server:
            return predict_file(replace(config, url=f"grpc://{server.grpc_url}"))


def predict_file(config: PredictConfig) -> ScoringSummary:
    """Score every good track of a file and write the results, or go on where an interrupted run stopped.

    One model answers for the whole file. A server tells of its model no more than the version number, and a repository
    that was begun anew counts from 1 again. So one track of an earlier run is asked for again, and unless the answer is
    the same all are scored again; two models that agree on that track are not told apart.

    Raises:
        TrackFileError: the file cannot be used at all, or changed while it was scored; nothing is written.
        InputError: the file is one that the results would replace.
        ClientError: the server stayed away; what was scored so far is kept for the next run.
        InputError: another run writes to the same folder, or nothing can be written there.
    """
    _refuse_own_results(config)
    open_source(config.source)  # what is no file of tracks at all is refused before its bytes are read
    source = fingerprint(config.source)
    with read_tracks(config.source) as file:
        if file_format(config.source) in PARQUET_SUFFIXES:
            deque(row_texts(config.source), maxlen=0)  # a column that cannot be written is found before the scoring
        with writing(config.out):
            config.out.mkdir(parents=True, exist_ok=True)
        identity = {"file": source, "program": __version__}
        with Journal(config.out / JOURNAL_NAME, identity) as journal:
            for path in OutputFiles.of(config.out).paths():
                remove_leftovers(path)
            if journal.outdated:
                _say("the scores kept in the folder are of another file or program; scoring from the start")
            elif len(journal):
                _say(f"{len(journal)} tracks were scored before the interruption; going on from there")
            for _ in range(_MOST_STARTS):
                try:
                    run = _Run(config, file, journal)
                    run_until_ended(run.score_all)
                    break
                except KeyboardInterrupt:
                    _say(f"interrupted; {len(journal)} scored tracks are kept, the same command goes on from there")
                    raise
                except _ModelChangedError as change:
                    _say(f"{change}; scoring all tracks again, so that one version answers for the whole file")
                    journal.restart()
            else:
                raise ClientError(
                    "the model version keeps changing",
                    where=config.url,
                    fix="score again when the rollout is done, or give the address of one server",
                )
            prediction = run.write(source)
            journal.remove()
            return prediction


def _refuse_own_results(config: PredictConfig) -> None:
    """A file in the folder of the results, a mended `set_aside.csv` say, would be lost to them."""
    # resolve() raises for a loop of symbolic links.
    source = os.path.realpath(config.source)
    written = (*OutputFiles.of(config.out).paths(), config.out / JOURNAL_NAME)
    if any(os.path.realpath(path) == source for path in written):
        raise InputError(
            "the results would replace the file to score",
            where=str(config.source),
            fix=f"give another folder than {config.out} with --out",
        )


class _Run:
    """One pass over a file, all of whose tracks are answered by one model version."""

    def __init__(self, config: PredictConfig, file: TrackFile, journal: Journal) -> None:
        self._config = config
        self._file = file
        self._journal = journal
        self._rows = RowResults(file.row_count)
        self._tracks: list[TrackResult] = []
        self._refused: list[SetAside] = []
        self._likeness = Likeness()
        self._resumed = 0
        self._seconds = 0.0

    async def score_all(self) -> None:
        """Take what the journal holds, ask the server for the rest."""
        endpoint = Endpoint.parse(self._config.url)
        retry = Retry(endpoint, self._config.retry, _say)
        begun = time.perf_counter()
        with progress("scoring", self._file.track_count, "tracks") as advance:
            async with Connection(endpoint, timeout=self._config.timeout) as connection:
                most = await retry(lambda: connection.max_batch(ENSEMBLE))
                batching = replace(self._config.batching, tracks=max(1, min(self._config.batching.tracks, most)))
                await self._check_journal(connection, retry)
                todo = batches(self._unscored(advance), batching)
                async with aclosing(score(todo, connection, retry, concurrency=self._config.concurrency)) as answers:
                    async for answer in answers:
                        for track, outcome in answer:
                            if isinstance(outcome, Score):
                                self._take(track, outcome)
                                self._journal.append(outcome)
                            else:
                                self._refused.append(
                                    SetAside(track_id=track.track_id, rows=track.rows, reason=outcome.reason)
                                )
                        self._journal.flush()
                        advance(len(answer))
        self._seconds = time.perf_counter() - begun

    def _unscored(self, advance: Callable[[int], None]) -> Iterator[Track]:
        for track in self._file:
            if track.track_id in self._journal:
                self._take(track, self._journal[track.track_id])
                self._resumed += 1
                advance(1)
            else:
                yield track

    async def _check_journal(self, connection: Connection, retry: Retry) -> None:
        """Tell another model by its answer to a track of the journal, before anything is added there."""
        track = next((track for track in self._file if track.track_id in self._journal), None)
        if track is None:
            return
        kept = self._journal[track.track_id]
        async with aclosing(score([RequestBatch((track,))], connection, retry, concurrency=1)) as answers:
            [(_, now)] = await anext(answers)
        if isinstance(now, Refusal):
            raise _ModelChangedError(f"the model refuses track {track.track_id}, which it had scored")
        if now.model_version != kept.model_version:
            raise _ModelChangedError(f"the model changed from version {kept.model_version} to {now.model_version}")
        if not np.allclose(now.probability, kept.probability, rtol=0.0, atol=_SAME):
            raise _ModelChangedError(f"version {kept.model_version} of the model is not the one it was")

    def _take(self, track: Track, outcome: Score) -> None:
        if self._tracks and self._tracks[0].model_version != outcome.model_version:
            raise _ModelChangedError(
                f"the model changed from version {self._tracks[0].model_version} to {outcome.model_version}"
            )
        self._rows.take(track, outcome)
        self._tracks.append(TrackResult.of(track, outcome))
        self._likeness.add(outcome.unlike_training)

    def write(self, source: str) -> ScoringSummary:
        """Write the result files, if the file still has the fingerprint `source`."""
        read = self._file.report
        report = replace(read, set_aside=[*read.set_aside, *self._refused])
        files = write_outputs(self._config.out, report=report, source=source, rows=self._rows, tracks=self._tracks)
        version = self._tracks[0].model_version if self._tracks else None
        for warning in self._likeness.warnings(version):
            _say(warning)
        return ScoringSummary(
            files=files,
            rows=self._file.row_count,
            rows_scored=sum(track.rows for track in self._tracks),
            tracks=len(self._tracks),
            resumed=self._resumed,
            onsets=sum(track.onset_row is not None for track in self._tracks),
            set_aside=sum(each.track_id is not None for each in report.set_aside),
            rows_set_aside=report.rows_set_aside,
            model_version=version,
            seconds=self._seconds,
            unlike_training=self._likeness.unlike(),
            notes=report.summary(),
        )


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
