"""Evaluation: the network beside the baselines, on tracks that none of them has learned from.

One run is one seed: its own split, weights and fitted baselines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from reentry.errors import ConfigError, InputError
from reentry.progress import progress
from reentry.tracks import ReadReport, Track, fingerprint, flight_fingerprint, tracks_fingerprint
from training.baselines import baselines, predict_with
from training.checkpoint import Checkpoint, load_checkpoint
from training.data import Sample, read_labelled
from training.loop import fit, predict
from training.metrics import Metrics, Prediction, score

NETWORK: Final = "LSTM"

HIGHER_IS_BETTER: Final = ("accuracy", "precision", "recall", "f1", "roc_auc", "onset_exact", "onset_within_step")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One seed's figures."""

    seed: int
    predictions: dict[str, list[Prediction]]
    """Of each method, the network first."""
    metrics: dict[str, Metrics]
    """The same methods."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What is known of a checkpoint on a file of labelled tracks."""

    checkpoint: Checkpoint
    checkpoint_path: Path
    data: ReadReport
    held_out: bool
    """Whether the data is the training data, so that only its held-out tracks are scored."""
    same_file: bool
    """Whether it is the very file."""
    trained_on: int
    """Tracks of the data that trained the network; they are left out, unless there are no others."""
    runs: list[Run]

    @property
    def scored(self) -> int:
        """Tracks that the figures of a run are of."""
        return self.runs[0].metrics[NETWORK].tracks

    @property
    def warning(self) -> str | None:
        """What is to be known where the data trained the network; None where it did not."""
        if not self.trained_on:
            return None
        if self.held_out:
            what = "this file" if self.same_file else "the same tracks in another file"
            return f"{self.data.path}: {what} trained the checkpoint; only the {self.scored} tracks held out are scored"
        tracks = f"{self.trained_on} of {self.data.tracks} tracks"
        if self.trained_on < self.data.tracks:
            return f"{self.data.path}: {tracks} trained the checkpoint; only the other {self.scored} are scored"
        return (
            f"{self.data.path}: {tracks} trained the checkpoint; they are scored all the same, and the figures say "
            "what it has learned by heart"
        )

    def summary(self) -> dict[str, dict[str, dict[str, float]]]:
        """Method -> figure -> mean and worst over the runs."""
        return {
            method: {
                name: {
                    "mean": float(np.mean(values)),
                    "worst": float(np.min(values) if name in HIGHER_IS_BETTER else np.max(values)),
                }
                for name in self.runs[0].metrics[method].as_dict()
                if (values := [run.metrics[method].as_dict()[name] for run in self.runs])
            }
            for method in self.runs[0].metrics
        }


def evaluate_file(checkpoint_path: Path, data_path: Path, *, seeds: int = 1) -> Evaluation:
    """Score a checkpoint on labelled tracks.

    On the tracks it was trained on, whatever file they come in, those it held out are scored, and the baselines beside
    it. Of other data every track that did not train it is scored, by the network alone: there the baselines have
    nothing to be fitted on.

    Args:
        checkpoint_path: of `reentry train`.
        data_path: labelled tracks.
        seeds: so many runs; the first is the checkpoint, each further one trains anew with the next seed.

    Raises:
        CheckpointError: not a checkpoint.
        TrackFileError: the data cannot be used as a whole.
        ConfigError: `seeds` below 1, or above 1 with other data than the training data.
    """
    if seeds < 1:
        raise ConfigError("seeds out of range", expected="at least 1", got=str(seeds))
    checkpoint = load_checkpoint(checkpoint_path)
    data = read_labelled(data_path)
    identity = tracks_fingerprint(sample.track for sample in data.samples)
    same_file = fingerprint(data_path) == checkpoint.data_file_fingerprint
    held_out = same_file or identity == checkpoint.data_fingerprint
    if seeds > 1 and not held_out:
        raise ConfigError(
            "more than one seed needs the tracks the checkpoint was trained on",
            where=str(data_path),
            fix="give their file, or leave --seeds out",
        )
    if not held_out:
        train, others = _partition(data.samples, lambda track: flight_fingerprint(track) in checkpoint.trained_flights)
        runs = [_run(checkpoint, [], others or train)]
    else:
        others, train = _partition(data.samples, lambda track: track.track_id in checkpoint.validation_tracks)
        runs = [_run(checkpoint, train, others)]
        if seeds > 1:
            with progress("evaluating", seeds, "seeds") as advance:
                advance(1)
                for seed in range(checkpoint.seed + 1, checkpoint.seed + seeds):
                    config = replace(checkpoint.train_config, seed=seed)
                    again = fit(
                        data.samples, checkpoint.model_config, config, fingerprint=identity, show_progress=False
                    )
                    runs.append(_run(again.checkpoint, again.train, again.validation))
                    advance(1)
    return Evaluation(
        checkpoint=checkpoint,
        checkpoint_path=checkpoint_path,
        data=data.report,
        held_out=held_out,
        same_file=same_file,
        trained_on=len(train),
        runs=runs,
    )


def _partition(samples: Sequence[Sample], holds: Callable[[Track], bool]) -> tuple[list[Sample], list[Sample]]:
    """Samples whose track it holds for, and the others."""
    of: dict[bool, list[Sample]] = {True: [], False: []}
    for sample in samples:
        of[holds(sample.track)].append(sample)
    return of[True], of[False]


def _run(checkpoint: Checkpoint, train: Sequence[Sample], scored: Sequence[Sample]) -> Run:
    if not scored:
        raise InputError("none of the tracks held out from training is in the file", fix="train again")
    predictions = {NETWORK: predict(checkpoint.model, scored)}
    if train:
        for baseline in baselines():
            baseline.fit(train)
            predictions[baseline.name] = predict_with(baseline, scored)
    return Run(
        seed=checkpoint.seed,
        predictions=predictions,
        metrics={method: score(of_method, checkpoint.decision) for method, of_method in predictions.items()},
    )
