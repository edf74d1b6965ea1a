"""Checks of the graph from measurements to onsets: its outputs agree with each other, and it refuses invalid input.

Shapes: B tracks, T steps, M measurement columns.
"""

from __future__ import annotations

import numpy as np

from export.sessions import Array, TrackSession
from export.signature import require_equal
from reentry.decision import DecisionConfig, decide_tracks
from reentry.errors import ExportError
from reentry.schema import INVALID, MODEL_VERSION, ONSET_STEP, ONSET_TIMESTAMP, PHASE, PROBABILITY
from training.data.samples import Sample
from training.evaluation.metrics import Prediction


class CheckedTrackSession:
    """The graph, with every answer checked. Each method raises ExportError if it does not run or a check fails."""

    def __init__(self, session: TrackSession, version: int) -> None:
        self._session, self._version = session, version

    def predict(self, sample: Sample, decision: DecisionConfig) -> Prediction:
        """Run one track; its phase and onset must be those of its probabilities."""
        track = sample.track
        where = f"validation track {track.track_id}, from measurements"
        outputs = self._run(track.measurements, where)
        probability = outputs[PROBABILITY.name]
        require_equal("shapes", where, (1, len(track)), probability.shape)
        if not np.isfinite(probability).all():
            raise ExportError("check failed: finite values", where=where)
        phase, onset_step, onset_time = decide_tracks(
            probability, track.timestamp[None], np.array([len(track)]), decision
        )
        for tensor, expected in (
            (PHASE, phase),
            (ONSET_STEP, onset_step[:, None]),
            (ONSET_TIMESTAMP, onset_time[:, None]),
        ):
            require_equal("decision", f"{where}, {tensor.name}", expected.tolist(), outputs[tensor.name].tolist())
        return Prediction(track=track, probability=probability[0])

    def require_refusal(self, sample: Sample) -> None:
        """Run one track with an invalid measurement; from this step on the outputs must be `schema.INVALID`."""
        measurements = sample.track.measurements.copy()
        step = len(measurements) // 2
        measurements[step, -1] = np.nan
        where = f"validation track {sample.track.track_id}, invalid measurement in step {step}"
        outputs = self._run(measurements, where)
        for name, invalid in INVALID.items():
            values = outputs[name][:, step:] if name in (PROBABILITY.name, PHASE.name) else outputs[name]
            if not np.array_equal(values, np.full_like(values, invalid), equal_nan=True):
                raise ExportError(
                    "check failed: invalid measurements",
                    where=f"{where}, {name}",
                    expected=str(invalid),
                    got=str(values.ravel()[0]),
                )

    def _run(self, measurements: Array, where: str) -> dict[str, Array]:
        try:
            outputs = self._session.run(measurements[None], np.array([len(measurements)]))
        except Exception as error:  # the exceptions of onnxruntime have no common base class
            raise ExportError(f"the graph from measurements to onsets does not run: {error}", where=where) from error
        require_equal("version", where, [[self._version]], outputs[MODEL_VERSION.name].tolist())
        return outputs
