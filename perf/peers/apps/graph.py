"""The served graph in ONNX Runtime."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from export.sessions import TrackSession
from perf.peers.apps.settings import MODEL
from perf.peers.apps.track_bytes import Array, pack_answer, unpack_measurements


class Graph:
    """The graph from measurements to onsets in ONNX Runtime, with one thread."""

    def __init__(self) -> None:
        self._session = TrackSession(Path(os.environ[MODEL]), threads=1)

    def run(self, measurements: Array) -> dict[str, Array]:
        """Measurements of one track (1, T, M) -> outputs of `schema.REENTRY_TRACK` by name."""
        return self._session.run(measurements, np.array([measurements.shape[1]]))

    def score(self, content: bytes) -> bytes:
        """Request -> answer, both as in `track_bytes`."""
        return pack_answer(self.run(unpack_measurements(content)))
