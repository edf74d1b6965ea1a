"""What is kept of a training in the store of runs: parameters, curves, metrics, plots, the checkpoint, and of what.

A training is worth more than its record: where MLflow is absent, or its store fails on the way, one line says so and
the training goes on. Only a store that was asked for and cannot be opened ends the command, before any time is spent.
"""

from __future__ import annotations

import getpass
import hashlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from reentry.errors import InputError
from reentry.schema import SCHEMA_VERSION
from reentry.tracks import fingerprint
from training.config import ModelConfig, TrainConfig
from training.fit.fit import git_revision
from training.runs.card import CARD_NAME, ERRORS_NAME, RELIABILITY_NAME
from training.runs.mlflow_store import URI_VARIABLE, experiment_of, first_line, open_store, quiet, tracking_uri, usable

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from training.train import TrainReport

LOCK: Final = Path(__file__).parents[2] / "requirements.lock"
FLUSH_SECONDS: Final = 2.0
"""How long an epoch's figures may wait, for a run is watched while it goes."""
_BATCH: Final = 1000
"""MLflow takes no more metrics at once."""


class Recorder:
    """One run in the store; one that is not to be kept takes the same calls."""

    def __init__(self, client: MlflowClient | None = None, run_id: str = "") -> None:
        self.run_id = run_id
        self._client = client
        self._curve: list[tuple[str, float, int, int]] = []
        self._flushed = time.monotonic()

    def parameters(self, values: Mapping[str, object]) -> None:
        """Keep what the run was given."""
        from_here = {name: _text(value) for name, value in values.items()}

        def send(client: MlflowClient) -> None:
            from mlflow.entities import Param

            client.log_batch(self.run_id, params=[Param(name, value) for name, value in from_here.items()])

        self._send(send)

    def epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Keep figures of an epoch, counted from 0."""
        now = int(time.time() * 1000)
        self._curve += [(name, value, now, epoch) for name, value in figures.items() if not math.isnan(value)]
        if time.monotonic() - self._flushed >= FLUSH_SECONDS:
            self.flush()

    def metrics(self, figures: Mapping[str, float]) -> None:
        """Keep figures of the whole run; one without cases is left out."""
        self.epoch(0, figures)
        self.flush()

    def files(self, paths: Sequence[Path]) -> None:
        """Keep copies of files."""

        def send(client: MlflowClient) -> None:
            for path in paths:
                client.log_artifact(self.run_id, str(path))

        self._send(send)

    def flush(self) -> None:
        """Send the figures that wait."""
        waiting, self._curve, self._flushed = self._curve, [], time.monotonic()

        def send(client: MlflowClient) -> None:
            from mlflow.entities import Metric

            for start in range(0, len(waiting), _BATCH):
                client.log_batch(self.run_id, metrics=[Metric(*entry) for entry in waiting[start : start + _BATCH]])

        if waiting:
            self._send(send)

    def end(self, status: str) -> None:
        """FINISHED, FAILED or KILLED."""
        self.flush()
        self._send(lambda client: client.set_terminated(self.run_id, status))

    def _send(self, action: Callable[[MlflowClient], None]) -> None:
        if self._client is None:
            return
        try:
            with quiet():
                action(self._client)
        except Exception as error:  # the store failed on the way: of MLflow, its database, its server, the disk
            self._client = None
            print(f"warning: the run is not recorded any further: {first_line(error)}", file=sys.stderr)


@contextmanager
def recording(wanted: bool, parameters: Mapping[str, object], name: str | None = None) -> Iterator[Recorder]:
    """A run from its start to its end, which is FAILED where the block raises and KILLED where it is interrupted.

    Args:
        wanted: False gives a recorder that keeps nothing.
        parameters: what the run is given.
        name: of the run; MLflow makes one up.

    Raises:
        InputError: the store of `URI_VARIABLE` cannot be used.
    """
    recorder = _begin(name) if wanted else Recorder()
    recorder.parameters(parameters)
    status = "KILLED"
    try:
        yield recorder
        status = "FINISHED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        recorder.end(status)


def training_parameters(data: Path, model: ModelConfig, config: TrainConfig) -> dict[str, object]:
    """All that decides how a training ends: settings, the file's content, the program, what it stands on.

    Raises:
        TrackFileError: the file cannot be read.
    """
    return {
        **{f"model.{name}": value for name, value in asdict(model).items()},
        **{f"train.{name}": value for name, value in asdict(config).items()},
        "data.path": data,
        "data.file_fingerprint": fingerprint(data),
        "schema_version": SCHEMA_VERSION,
        "git_revision": git_revision(),
        "lock_hash": lock_hash(),
    }


def record_training(recorder: Recorder, report: TrainReport) -> None:
    """Keep what came of a training: metrics, which tracks it was, the checkpoint, the card and its plots."""
    trained = report.trained
    recorder.parameters(
        {
            "data.tracks_fingerprint": trained.checkpoint.data_fingerprint,
            "data.train_tracks": len(trained.train),
            "data.validation_tracks": len(trained.validation),
        }
    )
    recorder.metrics(
        trained.checkpoint.metrics | {"best_epoch": float(trained.best_epoch + 1), "seconds": report.seconds}
    )
    # By name, for the folder may be one that holds much else.
    beside = [report.checkpoint.with_name(name) for name in (CARD_NAME, ERRORS_NAME, RELIABILITY_NAME)]
    recorder.files([report.checkpoint, *beside])


def lock_hash() -> str:
    """SHA-256, in hexadecimal, of the lock beside the program; "unknown" where it was installed without."""
    return hashlib.sha256(LOCK.read_bytes()).hexdigest() if LOCK.is_file() else "unknown"


def _begin(name: str | None) -> Recorder:
    uri = tracking_uri()
    tags: dict[str, Any] = {"mlflow.user": _user(), "mlflow.source.name": "reentry train"}
    try:
        client = open_store(uri)
        # A store that answers may still refuse to write: a server that only reads, an experiment that was deleted.
        with quiet(), usable(uri):
            run = client.create_run(experiment_of(client, uri), run_name=name, tags=tags)
    except ImportError:
        return _without("mlflow is not installed; fix: pip install 'reentry[train]'")
    except InputError as error:
        if os.environ.get(URI_VARIABLE):
            raise
        return _without(str(error))
    return Recorder(client, run.info.run_id)


def _without(reason: str) -> Recorder:
    print(f"warning: this run is not recorded: {reason}", file=sys.stderr)
    return Recorder()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
