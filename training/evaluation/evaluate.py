"""Evaluation of a checkpoint beside the baselines, on tracks that none of them was trained on.

One run is one random seed, with its own split, weights and fitted baselines. If the file is larger than memory, its
tracks and their predictions are kept in a temporary folder.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from reentry.errors import ConfigError, InputError
from reentry.runtime.arguments import require_between
from reentry.runtime.progress import progress
from reentry.runtime.signals import ended_by_signals
from reentry.tracks import ReadReport
from reentry.tracks.read import IN_MEMORY_BYTES
from training.checkpoint import Checkpoint, load_checkpoint
from training.config import MOST_SEEDS
from training.data.identity import DataIdentity, FlightIndex
from training.data.samples import Chosen, Sample, sampling_stride
from training.data.stored import StoredPredictions, open_labelled
from training.evaluation.metrics import Metrics, Prediction, score
from training.evaluation.predictions import predict
from training.models.baselines import baselines, predict_with

NETWORK: Final = "LSTM"

BASELINE_STEPS: Final = 2_000_000
"""A training split with more steps is thinned to every k-th track for the baselines, one of which needs all steps in
memory."""
EXACT_STEPS: Final = 1_000_000
"""Number of steps above which the ROC AUC is computed over bins of probability, to bound memory."""

HIGHER_IS_BETTER: Final = ("accuracy", "precision", "recall", "f1", "roc_auc", "onset_exact", "onset_within_step")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRun:
    """Metrics of the network and the baselines for one random seed."""

    seed: int
    predictions: dict[str, Sequence[Prediction]]
    """Predictions of each method, the network first; in memory, or read from disk on access."""
    metrics: dict[str, Metrics]
    """Metrics of each method, in the same order."""
    fitted_on: int
    """Number of tracks that the baselines were fitted on; 0 if there are no baselines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Result of evaluating a checkpoint on a file of labelled tracks."""

    checkpoint: Checkpoint
    checkpoint_path: Path
    data: ReadReport
    held_out: bool
    """Whether the data is the training data, so that only its validation tracks are scored."""
    same_file: bool
    """Whether the data is the training file itself, byte for byte."""
    trained_on: int
    """Number of tracks in the data that the network was trained on, even in part. They are left out of the metrics,
    unless there are no others."""
    runs: list[EvaluationRun]

    @property
    def scored(self) -> int:
        """Number of tracks that were scored in each run."""
        return self.runs[0].metrics[NETWORK].tracks

    @property
    def warning(self) -> str | None:
        """Warning for the user if the network was trained on some of the data; None otherwise."""
        if not self.trained_on:
            return None
        if self.held_out:
            data = "this file" if self.same_file else "the same tracks in another file"
            return (
                f"{self.data.path}: the checkpoint was trained on {data}; "
                f"only the {self.scored} validation tracks are scored"
            )
        trained = f"{self.data.path}: the checkpoint was trained on {self.trained_on} of {self.data.tracks} tracks"
        if self.trained_on < self.data.tracks:
            return f"{trained}; only the other {self.scored} are scored"
        return f"{trained}; they are scored all the same, so the figures do not show how it does on unseen tracks"

    def summary(self) -> dict[str, dict[str, dict[str, float]]]:
        """Mean and worst value over the runs, by method and metric."""
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


@contextmanager
def open_evaluation(
    checkpoint_path: Path, data_path: Path, *, seeds: int = 1, in_memory_bytes: int = IN_MEMORY_BYTES
) -> Iterator[Evaluation]:
    """Score a checkpoint on labelled tracks.

    If the tracks are those the checkpoint was trained on, in whatever file, its validation tracks are scored, with the
    baselines beside the network. In other data, every track that the network was not trained on is scored, by the
    network alone, because the baselines have no training split to be fitted on.

    Memory is bounded, see `open_labelled`: the predictions for a large file are deleted when the block ends.

    Args:
        checkpoint_path: checkpoint that `reentry train` wrote.
        data_path: labelled tracks.
        seeds: number of runs. The first one scores the checkpoint; each further run trains a network with the next
            random seed.
        in_memory_bytes: see `open_labelled`.

    Raises:
        CheckpointError: the file is not a checkpoint.
        TrackFileError: the data is unusable as a whole.
        InputError: no track can be scored, or the temporary folder is full.
        ConfigError: `seeds` is below 1, or above 1 for data other than the training data.
        Ended: a signal requested shutdown.
    """
    require_between("seeds", seeds, 1, MOST_SEEDS)
    checkpoint = load_checkpoint(checkpoint_path)
    with ExitStack() as stack:
        stack.enter_context(ended_by_signals())
        data = stack.enter_context(
            open_labelled(data_path, groups=checkpoint.model_config.groups, in_memory_bytes=in_memory_bytes)
        )
        folder = None
        if not isinstance(data.samples, list):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reentry-predictions-")))
        identity = DataIdentity.of(sample.track for sample in data.samples)
        same_file = data.file_fingerprint == checkpoint.data_file_fingerprint
        held_out = same_file or identity.tracks_fingerprint == checkpoint.data_fingerprint
        if seeds > 1 and not held_out:
            raise ConfigError(
                "more than one seed needs the tracks the checkpoint was trained on",
                where=str(data_path),
                fix="pass the training file, or omit --seeds",
            )
        if held_out:
            unseen, train = _partition(
                data.samples, (track in checkpoint.validation_tracks for track in identity.track_ids)
            )
            runs = [_run(checkpoint, train, unseen, folder)]
            if seeds > 1:
                from training.fit.fit import fit  # Lightning takes seconds to import

                with progress("evaluating", seeds, "seeds") as advance:
                    advance(1)
                    for seed in range(checkpoint.seed + 1, checkpoint.seed + seeds):
                        config = replace(checkpoint.train_config, seed=seed)
                        again = fit(
                            data.samples,
                            checkpoint.model_config,
                            config,
                            fingerprint=identity.tracks_fingerprint,
                            show_progress=False,
                        )
                        runs.append(_run(again.checkpoint, again.train, again.validation, folder))
                        advance(1)
        else:
            train, unseen = _partition(data.samples, trained_on(checkpoint, identity, data.samples))
            runs = [_run(checkpoint, train[:0], unseen or train, folder)]
        yield Evaluation(
            checkpoint=checkpoint,
            checkpoint_path=checkpoint_path,
            data=data.report,
            held_out=held_out,
            same_file=same_file,
            trained_on=len(train),
            runs=runs,
        )


def trained_on(checkpoint: Checkpoint, identity: DataIdentity, samples: Sequence[Sample]) -> Iterator[bool]:
    """Whether each track trained the checkpoint, as a whole flight or in part; see `training.data.identity`.

    Args:
        checkpoint: the checkpoint.
        identity: fingerprints of the tracks.
        samples: the tracks, in the order of `identity`.
    """
    index = FlightIndex(checkpoint.trained_rows) if checkpoint.trained_rows is not None else None
    for flight, sample in zip(identity.flight_fingerprints, samples, strict=True):
        yield flight in checkpoint.trained_flights or (index is not None and index.recognises(sample.track))


def _partition(samples: Sequence[Sample], selected: Iterable[bool]) -> tuple[Chosen, Chosen]:
    """Samples that are selected, and the others."""
    indices: dict[bool, list[int]] = {True: [], False: []}
    for index, is_selected in enumerate(selected):
        indices[is_selected].append(index)
    return Chosen(samples, indices[True]), Chosen(samples, indices[False])


def _run(
    checkpoint: Checkpoint, train: Sequence[Sample], scored: Sequence[Sample], folder: Path | None
) -> EvaluationRun:
    """Fit the baselines on `train`, unless it is empty, and score all methods; predictions go to `folder`, if given."""
    if not scored:
        raise InputError("the file contains none of the validation tracks", fix="train again")
    methods: dict[str, Callable[[Sequence[Sample]], list[Prediction]]] = {NETWORK: partial(predict, checkpoint.model)}
    if train:
        train = train[:: sampling_stride(train, BASELINE_STEPS)]
        for baseline in baselines():
            baseline.fit(train)
            methods[baseline.name] = partial(predict_with, baseline)
    predictions: dict[str, Sequence[Prediction]] = {
        name: method(scored)
        if folder is None
        else StoredPredictions.write(folder / f"{checkpoint.seed}-{number}.values", method, scored)
        for number, (name, method) in enumerate(methods.items())
    }
    return EvaluationRun(
        seed=checkpoint.seed,
        predictions=predictions,
        metrics={
            name: score(predicted, checkpoint.decision, exact_steps=EXACT_STEPS)
            for name, predicted in predictions.items()
        },
        fitted_on=len(train),
    )
