"""The network that scores the parts: one ONNX version of a model repository, run in the process that needs it.

Shapes: B tracks, T steps.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from client.batching import RequestBatch
from reentry.decision import decide_tracks
from reentry.errors import RepositoryError
from reentry.features.track import track_features
from reentry.schema import FEATURES_TENSOR, MEASUREMENT_COLUMNS, PROBABILITY, REENTRY_LSTM, TIMESTAMP
from reentry.serving.backends.onnxruntime.settings import CPU, SettingError, open_session
from reentry.triton.feature_demand import FeatureUse
from registry.formats import FORMATS, Format
from registry.inventory import numbered
from registry.labels import Record
from registry.open import open_store

_GRAPH: Final = FORMATS[Format.ONNX].whole_file
_TIME: Final = MEASUREMENT_COLUMNS.index(TIMESTAMP.name)
_ONE_THREAD: Final[dict[str, Any]] = {"parameters": {"intra_op_thread_count": {"string_value": "1"}}}
"""Configuration of the embedded server's backend, so that the numbers are those of the server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkModel:
    """A version of the network, identified by its content."""

    repository: str
    """Model repository, a folder or s3://BUCKET/PREFIX, that every worker reaches."""
    version: int
    sha256: str
    """SHA-256 of the graph."""

    @classmethod
    def find(cls, repository: str, name: str) -> BulkModel:
        """Find a version by its number or label.

        Raises:
            RepositoryError: There is no such version, or it has no ONNX graph.
        """
        store = open_store(repository)
        version = numbered(store, Record.of(store).labels, name)
        files = store.files(version)
        if _GRAPH not in files:
            raise RepositoryError(
                "bulk scoring runs ONNX versions only",
                where=store.place(version),
                expected=_GRAPH,
                got=", ".join(files) or "no such version",
                fix="choose another version with --model-version; `reentry repository list` shows them",
            )
        return cls(repository=repository, version=version, sha256=store.sha256(version, _GRAPH))


class Scores(NamedTuple):
    """Result of scoring one batch of tracks."""

    probability: npt.NDArray[np.float32]
    """Probability of reentry, (B, T)."""
    phase: npt.NDArray[np.uint8]
    """Phase, (B, T), 1 during reentry."""
    onset: npt.NDArray[np.float64]
    """Unix time of the onset, (B,), s; `NO_ONSET_TIMESTAMP` without one."""


class Scorer:
    """Scores tracks with the features, the network and the decision of the server's ensemble `reentry`."""

    def __init__(self, model: BulkModel) -> None:
        """Load a version of the network.

        Raises:
            RepositoryError: The version is unreachable, has changed, or does not run on this machine.
        """
        store = open_store(model.repository)
        with tempfile.TemporaryDirectory() as temporary:
            network = Path(temporary) / REENTRY_LSTM.name
            network.mkdir()
            folder = network / str(model.version)
            if store.sha256(model.version, _GRAPH) != model.sha256:
                raise RepositoryError(
                    "the version changed during the run", where=store.place(model.version), fix="run the command again"
                )
            store.fetch(model.version, folder)
            self._groups = FeatureUse(network)(model.version)
            try:
                self._session = open_session(folder / _GRAPH, _ONE_THREAD, CPU)
            except SettingError as error:
                raise RepositoryError(str(error), where=store.place(model.version)) from error

    def __call__(self, batch: RequestBatch) -> Scores:
        """Score a batch.

        Raises:
            ValueError: A probability is not a number from 0 to 1.
            Exception: The network does not run on these tracks.
        """
        measurements, lengths = batch.measurements(), batch.lengths()
        features = track_features(measurements, groups=self._groups)
        (probability,) = self._session.run([PROBABILITY.name], {FEATURES_TENSOR.name: features})
        if not ((probability >= 0.0) & (probability <= 1.0)).all():  # also true for NaN
            raise ValueError(f"{PROBABILITY.name} is not a number from 0 to 1")
        phase, _, onset = decide_tracks(probability, measurements[:, :, _TIME], lengths[:, 0])
        return Scores(probability, phase, onset)


@lru_cache(maxsize=1)
def scorer_of(model: BulkModel) -> Scorer:
    """Return the scorer of a version, which is loaded once in each process."""
    return Scorer(model)
