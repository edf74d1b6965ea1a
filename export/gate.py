"""The gate: a format is installed only when it is the trained network.

In order, each with its own error: names, axes and types of the graphs; then, of what they compute, shapes, the version,
finite values, values against PyTorch over a grid of batch sizes and lengths, the same values where features that the
network does not look at are NaN, a track's prefix against the whole, steps with carried state against the whole; and
the task itself, phase and onset of every validation track, alone, in batches and step by step.

A format that rounds (fp16, int8) differs in every value. It is held to the task: to phases and onsets, in the grid's
place the differences are measured and reported.

Shapes: B tracks, T steps, F features, L layers, H hidden units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from export.sessions import Array, Session, no_state
from export.signature import expect
from reentry.decision import NO_ONSET, DecisionConfig, onset_of, phase_of
from reentry.errors import ExportError
from reentry.features.track import track_features
from reentry.padding import pad_steps
from reentry.schema import FEATURES, MEASUREMENT_COLUMNS
from reentry.simulation import TrapezoidConfig, simulate_trapezoid
from registry.formats import Tolerance
from training.data.samples import Sample
from training.evaluation.metrics import Prediction, score, without_nan
from training.models.networks import ReentryNetwork

STEPPED_TRACKS = 16
"""Validation tracks that are run step by step as well; a step costs a call."""

_SAME = 1e-5
"""Most by which two runs of one graph over the same values differ, on a GPU too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What the gate measured."""

    cases: int
    """Pairs of batch size and length."""
    max_difference: float
    """Of any probability from PyTorch's, in the grid."""
    prefix_difference: float
    """Of any probability of a prefix from the same step's in the whole."""
    step_difference: float
    """Of any probability of a step with carried state from the same step's in the whole."""
    tracks: int
    """Validation tracks."""
    steps: int
    """Of them."""
    phase_share: float
    """Share of these steps whose phase is another than PyTorch's, each track alone or in batches: the larger."""
    onset_moved: int
    """Most steps by which an onset is another than PyTorch's, likewise."""
    stepped_phase_share: float | None
    """The same of the tracks that were run step by step; None of a format for which a step takes too long."""
    stepped_onset_moved: int | None
    metrics: dict[str, float | None]
    """Of this format on the validation tracks, as `training.evaluation.metrics` has them."""

    def as_dict(self) -> dict[str, Any]:
        """For the manifest."""
        content = asdict(self)
        del content["metrics"]
        return {"passed": True, **content}


def verify(
    runner: Session,
    model: ReentryNetwork,
    *,
    version: int,
    tolerance: Tolerance,
    decision: DecisionConfig,
    validation: Sequence[Sample],
    batches: Sequence[int],
    lengths: Sequence[int],
) -> Verification:
    """Hold a format against the network it was made from.

    Args:
        runner: the format, loaded.
        model: the network.
        version: that it has to answer with.
        tolerance: of the format.
        decision: what makes phases of probabilities.
        validation: labelled tracks, at least one.
        batches: sizes of the grid.
        lengths: of the grid, steps.

    Raises:
        ExportError: which check failed, where, and by how much.
    """
    gate = _Gate(runner, model, version, tolerance)
    worst = prefix = step = 0.0
    for batch in batches:
        for length in lengths:
            found = gate.case(batch, length)
            worst, prefix, step = (max(*pair) for pair in zip((worst, prefix, step), found, strict=True))
    task = _Task(gate, decision)
    predictions = [task.whole(sample) for sample in validation]
    alone = task.moved("the task", validation, predictions)
    together = task.moved("the task, in batches", validation, task.batched(validation, max(batches)))
    some = validation[:STEPPED_TRACKS] if gate.step_limit is None else []
    stepped = task.moved("the task, step by step", some, task.stepped(some)) if some else (None, None)
    return Verification(
        cases=len(batches) * len(lengths),
        max_difference=worst,
        prefix_difference=prefix,
        step_difference=step,
        tracks=len(validation),
        steps=sum(len(sample.track) for sample in validation),
        phase_share=max(alone[0], together[0]),
        onset_moved=max(alone[1], together[1]),
        stepped_phase_share=stepped[0],
        stepped_onset_moved=stepped[1],
        metrics=without_nan(score(predictions, decision).as_dict()),
    )


def flight_features(batch: int, length: int, seed: int) -> npt.NDArray[np.float32]:
    """Features (B, T, F) of simulated flights, or of parts of them where `length` is less than a flight's steps.

    Flights rather than noise: what jumps at random from step to step keeps a network that decides sharply on the edge
    of its decision, where it magnifies the rounding of float32 beyond what any track does.
    """
    steps = max(length, TrapezoidConfig().shortest)
    flights = simulate_trapezoid(TrapezoidConfig(tracks=batch, seed=seed, shortest=steps, longest=steps, labels=False))
    measurements = flights[list(MEASUREMENT_COLUMNS)].to_numpy(np.float64).reshape(batch, steps, -1)
    start = int(np.random.default_rng(seed).integers(steps - length, endpoint=True))
    return track_features(measurements[:, start : start + length])


class _Gate:
    """The checks of computed values."""

    def __init__(self, runner: Session, model: ReentryNetwork, version: int, tolerance: Tolerance) -> None:
        self._runner = runner
        self._model = model
        self._version = version
        self._tolerance = tolerance

    @property
    def tolerance(self) -> Tolerance:
        return self._tolerance

    @property
    def step_limit(self) -> int | None:
        return self._runner.step_limit

    def case(self, batch: int, length: int) -> tuple[float, float, float]:
        """Largest differences from PyTorch, of a prefix, and of carried state."""
        where = f"batch {batch}, length {length}"
        features = flight_features(batch, length, seed=1000 * batch + length)
        got = self.whole(features, where)
        worst = self._difference("values against PyTorch", where, got, self.reference(features))
        self._require_others_unread(features, got, where)
        cut = max(1, length // 2)
        prefix = self.whole(features[:, :cut], f"{where}, prefix {cut}")
        prefix_worst = self._difference("the prefix", where, prefix, got[:, :cut])
        stepped = self.stepped(features[:, : self.step_limit], where)
        return worst, prefix_worst, self._difference("carried state", where, stepped, got[:, : self.step_limit])

    def _require_others_unread(self, features: Array, got: Array, where: str) -> None:
        """Refuse a graph that reads a feature which its network does not name: a server may not have computed it."""
        others = [name not in self._model.config.features for name in FEATURES]
        hidden = features.copy()
        hidden[..., others] = np.nan
        probability, _ = self._run(where, lambda: self._runner.whole(hidden))
        differences = np.abs(probability - got)
        if not differences.max() <= _SAME:
            raise ExportError(
                "fails the check of features that are not looked at",
                where=where,
                expected="the same values where these are NaN",
                got=f"a difference of {differences.max():.3g}",
            )

    def reference(self, features: Array) -> Array:
        """PyTorch's probabilities, (B, T, F) -> (B, T)."""
        with torch.no_grad():
            return torch.sigmoid(self._model(torch.from_numpy(features))[0]).numpy()

    def whole(self, features: Array, where: str) -> Array:
        """Probabilities (B, T), after the checks that need no reference."""
        probability, version = self._run(where, lambda: self._runner.whole(features))
        expect("shapes", where, features.shape[:2], probability.shape)
        expect("the version", where, [[self._version]] * len(features), version.tolist())
        return _finite(probability, where)

    def stepped(self, features: Array, where: str) -> Array:
        """The same by steps with carried state."""
        config = self._model.config
        state = no_state(len(features), config.layers, config.hidden)
        columns = []
        for step in range(features.shape[1]):
            at = f"{where}, step {step}"
            row = np.ascontiguousarray(features[:, step])
            before = state
            probability, state, version = self._run(at, lambda row=row, before=before: self._runner.step(row, before))
            expect("shapes", f"{at}, probability", (len(features), 1), probability.shape)
            expect("shapes", f"{at}, state", [part.shape for part in before], [part.shape for part in state])
            expect("the version", at, [[self._version]] * len(features), version.tolist())
            columns.append(_finite(probability, at))
        return np.concatenate(columns, axis=1)

    def _run(self, where: str, run: Any) -> Any:
        try:
            return run()
        except ExportError:
            raise
        except Exception as error:  # the runtimes' errors share no base of their own
            raise ExportError(f"does not run: {error}", where=where) from error

    def _difference(self, check: str, where: str, got: Array, expected: Array) -> float:
        """Largest absolute difference, refused above the tolerance of the format."""
        differences = np.abs(got.astype(np.float64) - expected)
        largest, limit = float(differences.max()), self._tolerance.probability
        if limit is not None and largest > limit:
            track, step = np.unravel_index(differences.argmax(), differences.shape)
            raise ExportError(
                f"fails the check of {check}",
                where=f"{where}, track {track}, step {step}",
                expected=f"a difference of at most {limit:g}",
                got=f"{largest:.3g} ({got[track, step]:.6f} for {expected[track, step]:.6f})",
            )
        return largest


class _Task:
    """The checks of what the probabilities are for."""

    def __init__(self, gate: _Gate, decision: DecisionConfig) -> None:
        self._gate = gate
        self._decision = decision

    def whole(self, sample: Sample) -> Prediction:
        features = sample.features.numpy()[None]
        return Prediction(track=sample.track, probability=self._gate.whole(features, _track(sample))[0])

    def batched(self, samples: Sequence[Sample], size: int) -> list[Prediction]:
        """As a server puts tracks together. A format that finds its ranges at each call then answers otherwise."""
        parts = [samples[start : start + size] for start in range(0, len(samples), size)]
        return [
            prediction
            for part in parts
            for prediction in _each(part, self._gate.whole(_padded(part), f"{_track(part[0])} and those after it"))
        ]

    def stepped(self, samples: Sequence[Sample]) -> list[Prediction]:
        """All at once: the state of one track is no other's."""
        return _each(samples, self._gate.stepped(_padded(samples), "validation tracks"))

    def moved(self, check: str, samples: Sequence[Sample], predictions: Sequence[Prediction]) -> tuple[float, int]:
        """Share of steps in another phase than PyTorch's, and most steps an onset moved; refused above the limit."""
        tolerance = self._gate.tolerance
        changed = steps = most = 0
        for sample, prediction in zip(samples, predictions, strict=True):
            expected = phase_of(self._gate.reference(sample.features.numpy()[None])[0], self._decision)
            got = phase_of(prediction.probability, self._decision)
            here = int(np.sum(expected != got))
            changed, steps = changed + here, steps + len(got)
            moved = abs(_onset(got) - _onset(expected))
            if moved > tolerance.onset_steps:
                raise ExportError(
                    f"fails the check of {check}: the onset",
                    where=_track(sample),
                    expected=f"step {_onset(expected)}, {tolerance.onset_steps} off at most",
                    got=f"step {_onset(got)}",
                )
            most = max(most, moved)
        share = changed / steps
        if share > tolerance.phase_share:
            raise ExportError(
                f"fails the check of {check}: the phase",
                where=f"{len(samples)} validation tracks",
                expected=f"another phase than PyTorch's in {tolerance.phase_share:.2%} of the steps at most",
                got=f"{share:.3%}, {changed:,} of {steps:,}",
            )
        return share, most


def _padded(samples: Sequence[Sample]) -> Array:
    """Features (B, T, F) of tracks, the shorter padded."""
    longest = max(len(sample.track) for sample in samples)
    return np.concatenate([pad_steps(sample.features.numpy()[None], longest) for sample in samples])


def _each(samples: Sequence[Sample], probability: Array) -> list[Prediction]:
    """Probabilities (B, T) of padded tracks, without the padding."""
    return [
        Prediction(track=sample.track, probability=row[: len(sample.track)])
        for sample, row in zip(samples, probability, strict=True)
    ]


def _onset(phase: Array) -> int:
    """Step of the onset; of none, the step after the last."""
    onset = int(onset_of(phase))
    return len(phase) if onset == NO_ONSET else onset


def _finite(probability: Array, where: str) -> Array:
    if not np.isfinite(probability).all():
        raise ExportError("fails the check of finite values", where=where)
    return probability


def _track(sample: Sample) -> str:
    return f"validation track {sample.track.track_id}"
