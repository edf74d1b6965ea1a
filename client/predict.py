"""Scores a file of tracks through a Triton server: read, send, keep scores in the journal, write the results."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np

from client.batching import BatchConfig, RequestBatch
from client.connection import Connection, Endpoint
from client.control import Control, Progress, Stage
from client.journal import Journal, Score
from client.outputs import OutputFiles, RowResults, TrackResult, write_outputs
from client.retry import Retry, RetryConfig
from client.routing import Routing
from client.scoring import Refusal, score
from client.summary import ScoringSummary
from client.training_comparison import TrainingComparison
from reentry import __version__
from reentry.errors import ClientError, InputError
from reentry.runtime.arguments import require_between
from reentry.runtime.files import remove_leftovers, writing
from reentry.runtime.progress import progress
from reentry.runtime.signals import ended_by_signals, run_until_ended
from reentry.schema import ENSEMBLE
from reentry.tracks import SetAside, Track, TrackFile, read_tracks
from reentry.tracks.formats import PARQUET_SUFFIXES, file_format
from reentry.tracks.parquet import check_writable_as_text

JOURNAL_NAME = ".predict.journal"

_TOLERANCE: Final = 1e-5
"""Largest difference between probabilities that one model gives on different processors and in different batches."""
_MOST_STARTS: Final = 3
"""Number of times that a file is started before a model that keeps changing is an error."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictConfig:
    """Settings for scoring one file."""

    source: Path
    """File of tracks, CSV or Parquet."""
    out: Path
    """Folder of the results."""
    url: str = "grpc://127.0.0.1:8001"
    """Address of the Triton server, grpc:// or http://."""
    concurrency: int = 4
    """Number of requests in flight at once."""
    timeout: float = 60.0
    """Longest wait for the answer to one request, s."""
    batching: BatchConfig = field(default_factory=BatchConfig)
    retry: RetryConfig = field(default_factory=RetryConfig)

    def __post_init__(self) -> None:
        require_between("requests in flight", self.concurrency, 1, 10_000)
        require_between("timeout", self.timeout, 0.001, 86_400, unit="s")
        Endpoint.parse(self.url)


class _ModelChangedError(Exception):
    """Another model than before answered; the message gives the evidence."""


def predict_with_server(config: PredictConfig, repository: Path | None) -> ScoringSummary:
    """Score a file; if `repository` is given, start an embedded server of it for this run.

    Raises:
        ServerError: the server did not start.
        Ended: a signal ended the run; the server is stopped and the journal is kept.
    """
    with ended_by_signals():
        if repository is None:
            return predict_file(config)
        from reentry.serving import EmbeddedServer, ServerConfig

        on_free_ports = ServerConfig(
            model_repository=repository,
            http_port=0,
            grpc_port=0,
            metrics_port=0,
            drain_timeout=0.1,  # every request is answered, or given up, before the shutdown
        )
        with EmbeddedServer(on_free_ports) as server:
            return predict_file(replace(config, url=f"grpc://{server.grpc_url}"))


def predict_file(config: PredictConfig, control: Control | None = None) -> ScoringSummary:
    """Score every valid track of a file and write the results, or resume an interrupted run.

    A run that `control` stops writes the same files. The rows of the tracks that it did not score have empty cells.

    One model scores the whole file. A server identifies its model by a version number alone, and numbers repeat when a
    repository is created again. A resumed run therefore scores one track of the journal a second time. If the result
    differs, all tracks are scored again. Two models that agree on that track are not distinguished.

    Raises:
        TrackFileError: the file is not a file of tracks, or changed while it was scored; nothing is written.
        InputError: the results would replace the file, another run writes to the folder, or it cannot be written.
        ClientError: the server did not answer; the scores so far are kept for the next run.
    """
    _refuse_own_results(config)
    begun = time.perf_counter()
    with read_tracks(config.source) as file:
        if file_format(config.source) in PARQUET_SUFFIXES:
            check_writable_as_text(config.source)
        reading_seconds = time.perf_counter() - begun
        with writing(config.out):
            config.out.mkdir(parents=True, exist_ok=True)
        with Journal(config.out / JOURNAL_NAME, {"file": file.fingerprint, "program": __version__}) as journal:
            for path in OutputFiles.of(config.out).paths():
                remove_leftovers(path)
            if journal.outdated:
                _log.info("the kept scores are of another file or program version; starting over")
            elif len(journal):
                _log.info("resuming: an interrupted run has scored %d tracks", len(journal))
            run = _score_by_one_model(config, file, journal, control or Control())
            summary = run.write(reading_seconds)
            journal.remove()
            return summary


def _score_by_one_model(config: PredictConfig, file: TrackFile, journal: Journal, control: Control) -> _Run:
    """Score the file, from the start whenever the model changes.

    `reentry` and `reentry_fast` may serve different versions during a promotion, so only the first run uses both.

    Raises:
        ClientError: the model changed in each of `_MOST_STARTS` runs.
    """
    for start in range(_MOST_STARTS):
        run = _Run(config, file, journal, control, fast=start == 0)
        try:
            run_until_ended(run.score_all)
        except KeyboardInterrupt:
            _log.info("interrupted: %d scored tracks are kept; run the same command again to resume", len(journal))
            raise
        except _ModelChangedError as change:
            _log.info("%s; scoring all tracks again, so that one version scores the whole file", change)
            journal.restart()
        else:
            return run
    raise ClientError(
        "the model version keeps changing",
        where=config.url,
        fix="score again after the rollout, or give the address of a single server",
    )


def _refuse_own_results(config: PredictConfig) -> None:
    """Refuse a source that the results would overwrite, such as a corrected `set_aside.csv` in the same folder."""
    # Path.resolve() raises an error for a loop of symbolic links; os.path.realpath() does not.
    source = os.path.realpath(config.source)
    written = (*OutputFiles.of(config.out).paths(), config.out / JOURNAL_NAME)
    if any(os.path.realpath(path) == source for path in written):
        raise InputError(
            "the results would replace the file to score",
            where=str(config.source),
            fix=f"give another folder than {config.out} with --out",
        )


class _Run:
    """One pass over a file, in which one model version scores all tracks."""

    def __init__(
        self, config: PredictConfig, file: TrackFile, journal: Journal, control: Control, *, fast: bool
    ) -> None:
        self._config = config
        self._control = control
        self._fast = fast
        self._file = file
        self._journal = journal
        self._rows = RowResults(file.row_count)
        self._tracks: list[TrackResult] = []
        self._refused: list[SetAside] = []
        self._comparison = TrainingComparison()
        self._resumed = 0
        self._seconds = 0.0

    async def score_all(self) -> None:
        """Take the scores in the journal, and score the other tracks until the run is stopped."""
        begun = time.perf_counter()
        self._observe(Stage.SCORING)
        with progress("scoring", self._file.track_count, "tracks") as advance:
            await self._control.run(lambda: self._score(advance))
        if self._control.stopped:
            taken = {track.track_id for track in self._tracks}
            for track in self._file:
                if track.track_id in self._journal and track.track_id not in taken:
                    self._take(track, self._journal[track.track_id])
        self._seconds = time.perf_counter() - begun

    async def _score(self, advance: Callable[[int], None]) -> None:
        endpoint = Endpoint.parse(self._config.url)
        retry = Retry(endpoint, self._config.retry)
        async with Connection(endpoint, timeout=self._config.timeout) as connection:
            routing = await Routing.of(connection, retry, self._config.batching, fast=self._fast)
            await self._check_journal(connection, retry, routing)
            todo = routing.requests(self._unscored(advance))
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
                    self._observe(Stage.SCORING)
                    if self._control.stopped:
                        return

    def _observe(self, stage: Stage) -> None:
        if self._control.on_progress is not None:
            set_aside = self._file.report.set_aside
            refused = sum(each.track_id is not None for each in set_aside) + len(self._refused)
            self._control.on_progress(
                Progress(
                    stage=stage,
                    rows=self._file.row_count,
                    tracks=self._file.track_count + refused - len(self._refused),
                    done=len(self._tracks),
                    refused=refused,
                    model_version=self._tracks[0].model_version if self._tracks else None,
                )
            )

    def _unscored(self, advance: Callable[[int], None]) -> Iterator[Track]:
        for track in self._file:
            if track.track_id in self._journal:
                self._take(track, self._journal[track.track_id])
                self._resumed += 1
                advance(1)
            else:
                yield track

    async def _check_journal(self, connection: Connection, retry: Retry, routing: Routing) -> None:
        """Score one track of the journal a second time, to detect that the model has changed."""
        track = next((track for track in self._file if track.track_id in self._journal), None)
        if track is None:
            return
        kept = self._journal[track.track_id]
        again = RequestBatch((track,), routing.model if kept.unlike_training is None else ENSEMBLE)
        async with aclosing(score([again], connection, retry, concurrency=1)) as answers:
            [(_, now)] = await anext(answers)
        if isinstance(now, Refusal):
            raise _ModelChangedError(f"the model refuses track {track.track_id}, which it had scored")
        if now.model_version != kept.model_version:
            raise _ModelChangedError(f"the model changed from version {kept.model_version} to {now.model_version}")
        if not np.allclose(now.probability, kept.probability, rtol=0.0, atol=_TOLERANCE):
            raise _ModelChangedError(f"version {kept.model_version} of the model was replaced by another model")

    def _take(self, track: Track, outcome: Score) -> None:
        if self._tracks and self._tracks[0].model_version != outcome.model_version:
            raise _ModelChangedError(
                f"the model changed from version {self._tracks[0].model_version} to {outcome.model_version}"
            )
        self._rows.take(track, outcome)
        self._tracks.append(TrackResult.of(track, outcome))
        self._comparison.add(outcome.unlike_training)
        if self._control.on_scored is not None:
            self._control.on_scored(track, outcome)

    def write(self, reading_seconds: float) -> ScoringSummary:
        """Write the result files if the input file, read in `reading_seconds`, has not changed since."""
        begun = time.perf_counter()
        self._observe(Stage.WRITING)
        read = self._file.report
        report = replace(read, set_aside=[*read.set_aside, *self._refused])
        if self._control.on_report is not None:
            self._control.on_report(report)
        files = write_outputs(
            self._config.out, report=report, source=self._file.fingerprint, rows=self._rows, tracks=self._tracks
        )
        writing_seconds = time.perf_counter() - begun
        version = self._tracks[0].model_version if self._tracks else None
        for warning in self._comparison.warnings(version):
            _log.warning(warning)
        return ScoringSummary(
            files=files,
            rows=self._file.row_count,
            rows_scored=sum(track.rows for track in self._tracks),
            tracks=len(self._tracks),
            unscored=self._file.track_count - len(self._tracks) - len(self._refused),
            resumed=self._resumed,
            onsets=sum(track.onset_row is not None for track in self._tracks),
            set_aside=sum(each.track_id is not None for each in report.set_aside),
            rows_set_aside=report.rows_set_aside,
            model_version=version,
            seconds=self._seconds,
            compared=self._comparison.compared,
            reading_seconds=reading_seconds,
            writing_seconds=writing_seconds,
            unlike_training=self._comparison.unlike(),
            notes=report.summary(),
        )
