"""The export gate: a format is installed only if it computes what the trained network computes.

The checks run in this order, and each has its own error:

1. The graphs declare the right names, axes and types; see `export.signature`.
2. Over a grid of batch sizes and lengths: every answer has the right shapes and version number and is finite; the
   probabilities equal PyTorch's; they do not change if the features that the network does not use are NaN; a prefix
   of a track gives the probabilities of the whole track, and so do steps with carried state.
3. The task itself: phase and onset of every validation track, run alone, in batches, step by step, and by the graph
   from measurements to onsets; and of a few tracks by the graphs of live tracks.

A format that rounds (fp16, int8) differs in every value. The gate measures these differences and reports them, but
judges such a format by the task alone.

Shapes: B tracks, T steps, F features, L layers, H hidden units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from export.config import ExportConfig
from export.live_gate import CheckedScanSession, CheckedStreamSession, live_samples
from export.sessions import Array, DerivedSessions, Session
from export.signature import CheckedSession
from export.track_gate import CheckedTrackSession
from export.validation import flight_features
from reentry.decision import NO_ONSET, DecisionConfig, onset_of, phase_of
from reentry.errors import ExportError
from reentry.padding import pad_steps
from reentry.schema import FEATURES
from registry.formats import Tolerance
from training.checkpoint import Checkpoint
from training.data.samples import Sample
from training.evaluation.metrics import Prediction, score, without_nan
from training.models.networks import ReentryNetwork

STEPPED_TRACKS = 16
"""Number of validation tracks that are also run step by step, with one call for each step."""

_SAME_VALUE = 1e-5
"""Largest difference between two runs of one graph over the same values, on a CPU or a GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """Differences that the gate measured."""

    cases: int
    """Number of pairs of batch size and length in the grid."""
    max_difference: float
    """Largest difference of a probability from PyTorch's, over the grid."""
    prefix_difference: float
    """Largest difference of a probability between a prefix and the whole track."""
    step_difference: float
    """Largest difference of a probability between steps with carried state and the whole track."""
    tracks: int
    """Number of validation tracks."""
    steps: int
    """Total number of steps in the validation tracks."""
    phase_share: float
    """Share of steps whose phase differs from PyTorch's; the larger of tracks run alone and tracks run in batches."""
    onset_moved: int
    """Largest shift of an onset from PyTorch's, in steps; the larger of tracks run alone and tracks run in batches."""
    stepped_phase_share: float | None
    """Share of differing steps in the tracks run step by step; None if steps of this format are too slow."""
    stepped_onset_moved: int | None
    """Largest shift of an onset in the tracks run step by step; None if steps of this format are too slow."""
    measured_phase_share: float | None
    """Share of differing steps by the graph from measurements to onsets; None without this graph."""
    measured_onset_moved: int | None
    """Largest shift of an onset by the graph from measurements to onsets; None without this graph."""
    live_phase_share: float | None
    """Share of differing steps by the graphs of live tracks, the larger of both; None for a format without them."""
    live_onset_moved: int | None
    """Largest shift of an onset by the graphs of live tracks; None for a format without them."""
    metrics: dict[str, float | None]
    """Metrics of this format on the validation tracks; see `training.evaluation.metrics`."""

    def as_dict(self) -> dict[str, Any]:
        """Content for the manifest, which keeps the metrics elsewhere."""
        content = asdict(self)
        del content["metrics"]
        return {"passed": True, **content}


def verify(
    session: Session,
    checkpoint: Checkpoint,
    config: ExportConfig,
    *,
    version: int,
    tolerance: Tolerance,
    validation: Sequence[Sample],
    derived: DerivedSessions | None = None,
) -> Verification:
    """Compare a format with the network that it was made from.

    Args:
        session: the format, loaded.
        checkpoint: the network, and the thresholds that turn probabilities into phases.
        config: batch sizes and lengths of the grid.
        version: version number that the format must return.
        tolerance: largest differences that the format may have.
        validation: labelled tracks, at least one.
        derived: the format's graphs for the derived models; None without them.

    Raises:
        ExportError: a check failed.
    """
    model, decision, batches = checkpoint.model, checkpoint.decision, config.batches
    gate = _Gate(CheckedSession(session, model.config, version), model, tolerance, decision)
    differences = [gate.check_case(batch, length) for batch in batches for length in config.lengths]
    values, prefix, step = (max(column) for column in zip(*differences, strict=True))
    phases = [gate.reference_phase(sample) for sample in validation]
    predictions = gate.predict(validation, batch_size=1)
    alone = gate.check_task("alone", predictions, phases)
    batched = gate.check_task("in batches", gate.predict(validation, max(batches)), phases)
    stepped: tuple[float, int] | tuple[None, None] = (None, None)
    if session.step_limit is None:
        some = validation[:STEPPED_TRACKS]
        stepped = gate.check_task("step by step", gate.predict_stepped(some), phases[:STEPPED_TRACKS])
    fused: tuple[float, int] | tuple[None, None] = (None, None)
    live: list[tuple[float, int]] = []
    if derived is not None:
        if derived.track is not None:
            measured = gate.check_track_graph(CheckedTrackSession(derived.track, version), validation)
            fused = gate.check_task("from measurements", measured, phases)
        live = gate.check_live_graphs(derived, live_samples(validation), version)
    return Verification(
        cases=len(differences),
        max_difference=values,
        prefix_difference=prefix,
        step_difference=step,
        tracks=len(validation),
        steps=sum(len(sample.track) for sample in validation),
        phase_share=max(alone[0], batched[0]),
        onset_moved=max(alone[1], batched[1]),
        stepped_phase_share=stepped[0],
        stepped_onset_moved=stepped[1],
        measured_phase_share=fused[0],
        measured_onset_moved=fused[1],
        live_phase_share=max((share for share, _ in live), default=None),
        live_onset_moved=max((moved for _, moved in live), default=None),
        metrics=without_nan(score(predictions, decision).as_dict()),
    )


@dataclass(frozen=True, slots=True)
class _Gate:
    """One format under test."""

    session: CheckedSession
    model: ReentryNetwork
    tolerance: Tolerance
    decision: DecisionConfig

    def check_case(self, batch: int, length: int) -> tuple[float, float, float]:
        """Check one case of the grid; return the largest differences from PyTorch, of a prefix, and of steps."""
        where = f"batch {batch}, length {length}"
        features = flight_features(batch, length, 1000 * batch + length, self.model.config.groups)
        got = self.session.whole(features, where)
        values = self._difference("values against PyTorch", where, got, self._reference(features))
        self._check_unused_features(features, got, where)
        cut = max(1, length // 2)
        prefix = self.session.whole(features[:, :cut], f"{where}, prefix {cut}")
        prefix_difference = self._difference("prefix of a track", where, prefix, got[:, :cut])
        limit = self.session.step_limit
        stepped = self.session.stepped(features[:, :limit], where)
        return values, prefix_difference, self._difference("carried state", where, stepped, got[:, :limit])

    def predict(self, samples: Sequence[Sample], batch_size: int) -> list[Prediction]:
        """Run tracks in batches, as a server does. A format that finds ranges per call depends on the batch."""
        predictions = []
        for start in range(0, len(samples), batch_size):
            batch = samples[start : start + batch_size]
            where = f"batch of {len(batch)} from validation track {batch[0].track.track_id} on"
            predictions += _unpadded(batch, self.session.whole(_padded(batch), where))
        return predictions

    def predict_stepped(self, samples: Sequence[Sample]) -> list[Prediction]:
        """Run tracks step by step, all in one batch."""
        return _unpadded(samples, self.session.stepped(_padded(samples), "validation tracks"))

    def check_track_graph(self, track: CheckedTrackSession, samples: Sequence[Sample]) -> list[Prediction]:
        """Run the graph from measurements to onsets over single tracks, and compare its probabilities with PyTorch."""
        track.require_refusal(samples[0])
        predictions = [track.predict(sample, self.decision) for sample in samples]
        self._check_predictions("from measurements", samples, predictions)
        return predictions

    def check_live_graphs(
        self, derived: DerivedSessions, samples: Sequence[Sample], version: int
    ) -> list[tuple[float, int]]:
        """Run the graphs of live tracks, and compare them with PyTorch; return the result of `check_task` for each."""
        if not samples:
            return []
        scan = CheckedScanSession(derived.scan, self.model.config, version)
        by_graph = {"in scans": scan.predict(samples)}
        if derived.stream is not None:
            by_graph["as live tracks"] = CheckedStreamSession(derived.stream, version).predict(samples, self.decision)
        phases = [self.reference_phase(sample) for sample in samples]
        for how, predictions in by_graph.items():
            self._check_predictions(how, samples, predictions)
        return [self.check_task(how, predictions, phases) for how, predictions in by_graph.items()]

    def _check_predictions(self, how: str, samples: Sequence[Sample], predictions: Sequence[Prediction]) -> None:
        """Compare the probabilities of tracks with PyTorch's."""
        for sample, prediction in zip(samples, predictions, strict=True):
            where = f"validation track {sample.track.track_id}, {how}"
            expected = self._reference(_padded([sample]))
            self._difference("values against PyTorch", where, prediction.probability[None], expected)

    def reference_phase(self, sample: Sample) -> Array:
        """Phases (T,) of a track by PyTorch."""
        phase: Array = phase_of(self._reference(_padded([sample]))[0], self.decision)
        return phase

    def check_task(self, how: str, predictions: Sequence[Prediction], phases: Sequence[Array]) -> tuple[float, int]:
        """Compare phases with PyTorch's; return the share of differing steps and the largest shift of an onset."""
        changed = steps = largest = 0
        for prediction, expected in zip(predictions, phases, strict=True):
            got = phase_of(prediction.probability, self.decision)
            changed, steps = changed + int(np.sum(expected != got)), steps + len(got)
            shift = abs(_onset(got) - _onset(expected))
            if shift > self.tolerance.onset_steps:
                raise ExportError(
                    f"check failed: onset, tracks run {how}",
                    where=f"validation track {prediction.track.track_id}",
                    expected=f"step {_onset(expected)}, or at most {self.tolerance.onset_steps} from it",
                    got=f"step {_onset(got)}",
                )
            largest = max(largest, shift)
        share = changed / steps
        if share > self.tolerance.phase_share:
            raise ExportError(
                f"check failed: phases, tracks run {how}",
                where=f"{len(predictions)} validation tracks",
                expected=f"at most {self.tolerance.phase_share:.2%} of steps in another phase than PyTorch's",
                got=f"{share:.3%}, {changed:,} of {steps:,}",
            )
        return share, largest

    def _reference(self, features: Array) -> Array:
        """Probabilities of PyTorch, (B, T, F) -> (B, T)."""
        with torch.no_grad():
            return torch.sigmoid(self.model(torch.from_numpy(features))[0]).numpy()

    def _check_unused_features(self, features: Array, got: Array, where: str) -> None:
        """Reject a graph that reads a feature which its network does not use, since a server may not compute it."""
        hidden = features.copy()
        hidden[..., [name not in self.model.config.features for name in FEATURES]] = np.nan
        difference = np.abs(self.session.whole_unchecked(hidden, where) - got).max()
        if not difference <= _SAME_VALUE:  # NaN is rejected too
            raise ExportError(
                "check failed: unused features",
                where=where,
                expected="the same probabilities if these features are NaN",
                got=f"a difference of {difference:.3g}",
            )

    def _difference(self, check: str, where: str, got: Array, expected: Array) -> float:
        """Largest absolute difference, which must be within the tolerance of the format."""
        differences = np.abs(got.astype(np.float64) - expected)
        largest, limit = float(differences.max()), self.tolerance.probability
        if limit is not None and largest > limit:
            track, step = np.unravel_index(differences.argmax(), differences.shape)
            raise ExportError(
                f"check failed: {check}",
                where=f"{where}, track {track}, step {step}",
                expected=f"a difference of at most {limit:g}",
                got=f"{largest:.3g} ({got[track, step]:.6f} instead of {expected[track, step]:.6f})",
            )
        return largest


def _padded(samples: Sequence[Sample]) -> Array:
    """Features (B, T, F) of tracks, padded to the longest one."""
    longest = max(len(sample.track) for sample in samples)
    return np.concatenate([pad_steps(sample.features.numpy()[None], longest) for sample in samples])


def _unpadded(samples: Sequence[Sample], probability: Array) -> list[Prediction]:
    """Predictions from probabilities (B, T) of padded tracks."""
    return [
        Prediction(track=sample.track, probability=row[: len(sample.track)])
        for sample, row in zip(samples, probability, strict=True)
    ]


def _onset(phase: Array) -> int:
    """Step of the onset; the number of steps if there is no onset."""
    onset = int(onset_of(phase))
    return len(phase) if onset == NO_ONSET else onset
