"""Recording of a training in the MLflow tracking store: parameters, curves, metrics, plots and the checkpoint.

A training is worth more than its record. If MLflow is not installed, or the store fails during the training, a warning
is logged and the training continues unrecorded. Only a store that the user configured and that cannot be opened stops
the command, before the training starts.
"""

from __future__ import annotations

import getpass
import hashlib
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from reentry.errors import InputError
from reentry.runtime.files import sha256_of
from reentry.runtime.revision import git_revision, image_digest
from reentry.schema import SCHEMA_VERSION
from training.config import ModelConfig, TrainConfig
from training.data.training_data import TrainingData
from training.fit.threads import THREADS, device, processor
from training.runs.card import CARD_NAME, ERRORS_NAME, RELIABILITY_NAME
from training.runs.checkpoints import CHECKPOINT_TAG
from training.runs.mlflow_store import URI_VARIABLE, experiment_of, first_line, open_store, quiet, tracking_uri, usable

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from training.train import TrainReport

_log = logging.getLogger(__name__)

LOCK: Final = Path(__file__).parents[2] / "requirements.lock"
SEPARATOR: Final = ", "
"""Text between the items of a parameter that is a list."""
FLUSH_SECONDS: Final = 2.0
"""Longest time that an epoch's metrics wait to be sent, so that a run can be watched while it is in progress."""
_BATCH: Final = 1000
"""Largest number of metrics that MLflow accepts in one request."""


class Recorder:
    """One run in the store. Without a client, every call is accepted and nothing is recorded."""

    def __init__(self, client: MlflowClient | None = None, run_id: str = "") -> None:
        self.run_id = run_id
        self._client = client
        self._curve: list[tuple[str, float, int, int]] = []
        self._flushed = time.monotonic()

    def parameters(self, values: Mapping[str, object]) -> None:
        """Record parameters."""
        texts = {name: _text(value) for name, value in values.items()}

        def send(client: MlflowClient) -> None:
            from mlflow.entities import Param

            client.log_batch(self.run_id, params=[Param(name, value) for name, value in texts.items()])

        self._send(send)

    def tags(self, values: Mapping[str, str]) -> None:
        """Record tags, which later commands may change."""

        def send(client: MlflowClient) -> None:
            for name, value in values.items():
                client.set_tag(self.run_id, name, value)

        self._send(send)

    def epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Record the metrics of an epoch, counted from 0; NaN is left out."""
        now = int(time.time() * 1000)
        self._curve += [(name, value, now, epoch) for name, value in figures.items() if not math.isnan(value)]
        if time.monotonic() - self._flushed >= FLUSH_SECONDS:
            self.flush()

    def metrics(self, figures: Mapping[str, float]) -> None:
        """Record metrics of the whole run; NaN is left out."""
        self.epoch(0, figures)
        self.flush()

    def files(self, paths: Sequence[Path]) -> None:
        """Record copies of files."""

        def send(client: MlflowClient) -> None:
            for path in paths:
                client.log_artifact(self.run_id, str(path))

        self._send(send)

    def flush(self) -> None:
        """Send the metrics that are waiting."""
        waiting, self._curve, self._flushed = self._curve, [], time.monotonic()

        def send(client: MlflowClient) -> None:
            from mlflow.entities import Metric

            for start in range(0, len(waiting), _BATCH):  # a resumed run repeats all its epochs at once
                client.log_batch(self.run_id, metrics=[Metric(*entry) for entry in waiting[start : start + _BATCH]])

        if waiting:
            self._send(send)

    def end(self, status: str) -> None:
        """End the run with the status FINISHED, FAILED or KILLED."""
        self.flush()
        self._send(lambda client: client.set_terminated(self.run_id, status))

    def _send(self, action: Callable[[MlflowClient], None]) -> None:
        if self._client is None:
            return
        try:
            with quiet():
                action(self._client)
        except Exception as error:  # from MLflow, its database, its server or the disk
            self._client = None
            _log.warning("recording of this run stopped: %s", first_line(error))


@contextmanager
def recording(enabled: bool, parameters: Mapping[str, object], name: str | None = None) -> Iterator[Recorder]:
    """Record a run. It is FAILED if the block raises an error and KILLED if the block is interrupted.

    Args:
        enabled: whether to record anything at all.
        parameters: parameters of the run.
        name: name of the run; MLflow generates one by default.

    Raises:
        InputError: the store that `URI_VARIABLE` names is unusable.
    """
    recorder = _begin(name) if enabled else Recorder()
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


def training_parameters(data: TrainingData, model: ModelConfig, config: TrainConfig) -> dict[str, object]:
    """Everything that determines the result of a training: settings, data, code, locked dependencies, processor.

    Raises:
        InputError: the data is unavailable.
    """
    return {
        **{f"model.{name}": value for name, value in asdict(model).items()},
        **{f"train.{name}": value for name, value in asdict(config).items()},
        **data.facts(),
        "schema_version": SCHEMA_VERSION,
        "git_revision": git_revision(),
        "lock_hash": lock_hash(),
        "image_digest": image_digest(),
        "device": device(config.accelerator),
        "processor": processor(),
        "threads": THREADS,
    }


def record_training(recorder: Recorder, report: TrainReport) -> None:
    """Record the result of a training: metrics, fingerprint of the tracks, checkpoint, model card and its plots.

    The SHA-256 of the checkpoint is a tag, by which `training.runs.checkpoints` finds the run.
    """
    trained = report.trained
    recorder.parameters(
        {
            "data.rows": report.read.rows,
            "data.tracks_fingerprint": trained.checkpoint.data_fingerprint,
            "data.train_tracks": len(trained.train),
            "data.validation_tracks": len(trained.validation),
        }
    )
    recorder.metrics(
        trained.checkpoint.metrics | {"best_epoch": float(trained.best_epoch + 1), "seconds": report.seconds}
    )
    recorder.tags({CHECKPOINT_TAG: sha256_of(report.checkpoint)})
    # The files are listed by name because the folder may hold other files of the user.
    card_files = [report.checkpoint.with_name(name) for name in (CARD_NAME, ERRORS_NAME, RELIABILITY_NAME)]
    recorder.files([report.checkpoint, *card_files])


def lock_hash() -> str:
    """SHA-256 of requirements.lock, in hexadecimal; "unknown" if the program was installed without that file."""
    return hashlib.sha256(LOCK.read_bytes()).hexdigest() if LOCK.is_file() else "unknown"


def _begin(name: str | None) -> Recorder:
    uri = tracking_uri()
    tags: dict[str, Any] = {"mlflow.user": _user(), "mlflow.source.name": "reentry train"}
    try:
        client = open_store(uri)
        # A store that can be read may still refuse to write: a read-only server, or a deleted experiment.
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
    _log.warning("this run is not recorded: %s", reason)
    return Recorder()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the user id of a container has no name
        return "unknown"


def _text(value: object) -> str:
    return SEPARATOR.join(map(str, value)) if isinstance(value, tuple | list) else str(value)
