"""Checks of the graphs of live tracks: one step of each track at a time, they give the answers of the whole tracks.

Shapes: B tracks, T steps, M measurement columns, F features, L layers, H hidden units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from export.sessions import Array, ScanSession, StreamSession
from export.signature import require_equal
from reentry.decision import DecisionConfig, decide_tracks
from reentry.errors import ExportError
from reentry.padding import pad_steps
from reentry.schema import (
    ACCEPTED,
    INVALID,
    MODEL_VERSION,
    NEXT_RECURRENT_STATE,
    NEXT_STREAM_STATE,
    NO_ONSET_TIMESTAMP,
    ONSET,
    ONSET_TIMESTAMP,
    PHASE,
    PROBABILITY,
    STATE_SIZE,
)
from training.config import ModelConfig
from training.data.samples import Sample
from training.evaluation.metrics import Prediction

LIVE_TRACKS = 4
"""Number of validation tracks that are run as live tracks."""


def live_samples(samples: Sequence[Sample]) -> list[Sample]:
    """The first tracks that repeat no measurement, which would be no step of a live track."""
    distinct = (s for s in samples if len(np.unique(s.track.measurements, axis=0)) == len(s.track))
    return [sample for sample, _ in zip(distinct, range(LIVE_TRACKS), strict=False)]


class CheckedStreamSession:
    """The graph of a live track, with every answer checked. A method raises ExportError if a check fails."""

    def __init__(self, session: StreamSession, version: int) -> None:
        self._session, self._version = session, version

    def predict(self, samples: Sequence[Sample], decision: DecisionConfig) -> list[Prediction]:
        """Run tracks one measurement at a time, all in one batch; phases and onsets must be those of probabilities."""
        longest = max(len(sample.track) for sample in samples)
        measurements = np.concatenate([pad_steps(sample.track.measurements[None], longest) for sample in samples])
        state, answers = np.zeros((len(samples), STATE_SIZE)), []
        for step in range(longest):
            answers.append(self._run(measurements[:, step], state, f"validation tracks, step {step}, live"))
            state = answers[-1].pop(NEXT_STREAM_STATE.name)
        names = (PROBABILITY, PHASE, ONSET, ONSET_TIMESTAMP, ACCEPTED)
        outputs = {tensor.name: np.concatenate([each[tensor.name] for each in answers], axis=1) for tensor in names}
        predictions = []
        for row, sample in enumerate(samples):
            own = {name: values[row, : len(sample.track)] for name, values in outputs.items()}
            _require_decision(own, sample, decision)
            predictions.append(Prediction(track=sample.track, probability=own[PROBABILITY.name]))
        self._require_refusal(measurements[:, -1], state)
        return predictions

    def _require_refusal(self, measurement: Array, state: Array) -> None:
        """Run an invalid measurement of each track; the outputs must be `schema.INVALID`, and the state must stay."""
        invalid = measurement.copy()
        invalid[:, -1] = np.nan
        where = "validation tracks, invalid measurement, live"
        outputs = self._run(invalid, state, where)
        numbers = {tensor.name: INVALID[tensor.name] for tensor in (PROBABILITY, PHASE, ONSET_TIMESTAMP)}
        expected = {name: np.full_like(outputs[name], value) for name, value in numbers.items()}
        expected |= {tensor.name: np.zeros_like(outputs[tensor.name]) for tensor in (ACCEPTED, ONSET)}
        for name, values in (expected | {NEXT_STREAM_STATE.name: state}).items():
            if not np.array_equal(outputs[name], values, equal_nan=True):
                got = str(outputs[name].ravel())
                raise ExportError("check failed: invalid measurements", where=f"{where}, {name}", got=got)

    def _run(self, measurement: Array, state: Array, where: str) -> dict[str, Array]:
        outputs = _running(self._session.run, measurement, state, where=where)
        shapes = {PROBABILITY.name: (len(state), 1), NEXT_STREAM_STATE.name: state.shape}
        _require_answer(outputs, shapes, self._version, where)
        return outputs


class CheckedScanSession:
    """The graph of many live tracks, with every answer checked. A method raises ExportError if a check fails."""

    def __init__(self, session: ScanSession, config: ModelConfig, version: int) -> None:
        self._session, self._config, self._version = session, config, version

    def predict(self, samples: Sequence[Sample]) -> list[Prediction]:
        """Run tracks one step at a time, all in one batch, from a state of width 1."""
        longest = max(len(sample.track) for sample in samples)
        features = np.concatenate([pad_steps(sample.features.numpy()[None], longest) for sample in samples])
        size = 2 * self._config.layers * self._config.hidden
        shapes = {PROBABILITY.name: (len(samples), 1), NEXT_RECURRENT_STATE.name: (len(samples), size)}
        state, columns = np.zeros((len(samples), 1), np.float32), []
        for step in range(longest):
            where = f"validation tracks, step {step}, scan"
            outputs = _running(self._session.run, features[:, step], state, where=where)
            _require_answer(outputs, shapes, self._version, where)
            columns.append(outputs[PROBABILITY.name])
            state = outputs[NEXT_RECURRENT_STATE.name]
        probability = np.concatenate(columns, axis=1)
        if not np.isfinite(probability).all():
            raise ExportError("check failed: finite values", where="validation tracks, scan")
        return [
            Prediction(track=sample.track, probability=row[: len(sample.track)])
            for sample, row in zip(samples, probability, strict=True)
        ]


def _require_decision(outputs: dict[str, Array], sample: Sample, decision: DecisionConfig) -> None:
    """Check that the outputs (T,) of a live track agree with its probabilities."""
    where = f"validation track {sample.track.track_id}, live"
    probability, time = outputs[PROBABILITY.name], sample.track.timestamp
    if not np.isfinite(probability).all():
        raise ExportError("check failed: finite values", where=where)
    phase, step, onset_time = decide_tracks(probability[None], time[None], np.array([len(time)]), decision)
    onset = np.arange(len(time)) == step
    after = np.logical_or.accumulate(onset)
    expected = {
        PHASE: phase[0],
        ONSET: onset.astype(np.uint8),
        ONSET_TIMESTAMP: np.where(after, onset_time, NO_ONSET_TIMESTAMP),
        ACCEPTED: np.ones(len(time), np.uint8),
    }
    for tensor, values in expected.items():
        require_equal("decision", f"{where}, {tensor.name}", values.tolist(), outputs[tensor.name].tolist())


def _running(run: Callable[..., dict[str, Array]], *inputs: Array, where: str) -> dict[str, Array]:
    try:
        return run(*inputs)
    except Exception as error:  # the exceptions of onnxruntime have no common base class
        raise ExportError(f"the graph of live tracks does not run: {error}", where=where) from error


def _require_answer(
    outputs: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]], version: int, where: str
) -> None:
    for name, shape in shapes.items():
        require_equal("shapes", f"{where}, {name}", shape, outputs[name].shape)
    got = outputs[MODEL_VERSION.name].tolist()
    require_equal("version", where, [[version]] * len(got), got)
