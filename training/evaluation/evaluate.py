"""Evaluation: the network beside the baselines, on tracks that none of them has learned from.

One run is one seed: its own split, weights and fitted baselines. Of a file larger than memory the tracks and what is
predicted of them lie in a temporary folder.
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
from training.evaluation.metrics import Metrics, Prediction
from training.evaluation.parts import score_in_parts
from training.fit.fit import fit, predict
from training.models.baselines import baselines, predict_with

NETWORK: Final = "LSTM"

BASELINE_STEPS: Final = 2_000_000
"""Of a training split with more, the baselines are fitted on every k-th track: one of them wants all steps at once."""

HIGHER_IS_BETTER: Final = ("accuracy", "precision", "recall", "f1", "roc_auc", "onset_exact", "onset_within_step")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRun:
    """One seed's figures."""

    seed: int
    predictions: dict[str, Sequence[Prediction]]
    """Of each method, the network first; in memory, or read when asked for."""
    metrics: dict[str, Metrics]
    """The same methods."""
    fitted_on: int
    """Tracks that the baselines were fitted on; 0 where there are none."""


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
    """Tracks of the data that trained the network, whole or in part; they are left out, unless there are no others."""
    runs: list[EvaluationRun]

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


@contextmanager
def open_evaluation(
    checkpoint_path: Path, data_path: Path, *, seeds: int = 1, in_memory_bytes: int = IN_MEMORY_BYTES
) -> Iterator[Evaluation]:
    """Score a checkpoint on labelled tracks.

    On the tracks it was trained on, whatever file they come in, those it held out are scored, and the baselines beside
    it. Of other data every track that did not train it is scored, by the network alone: there the baselines have
    nothing to be fitted on.

    Memory is bounded, see `open_labelled`: of a large file the predictions are gone when the block ends. The figures
    are those of `score_in_parts`.

    Args:
        checkpoint_path: of `reentry train`.
        data_path: labelled tracks.
        seeds: so many runs; the first is the checkpoint, each further one trains anew with the next seed.
        in_memory_bytes: see `open_labelled`.

    Raises:
        CheckpointError: not a checkpoint.
        TrackFileError: the data cannot be used as a whole.
        InputError: none of its tracks can be scored, or the temporary folder takes no more.
        ConfigError: `seeds` below 1, or above 1 with other data than the training data.
        Ended: a signal asked for the end.
    """
    require_between("seeds", seeds, 1, MOST_SEEDS)
    checkpoint = load_checkpoint(checkpoint_path)
    with ExitStack() as stack:
        stack.enter_context(ended_by_signals())
        data = stack.enter_context(open_labelled(data_path, in_memory_bytes=in_memory_bytes))
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
                fix="give their file, or leave --seeds out",
            )
        if not held_out:
            train, others = _partition(data.samples, _trained(checkpoint, identity, data.samples))
            runs = [_run(checkpoint, train[:0], others or train, folder)]
        else:
            others, train = _partition(
                data.samples, (track in checkpoint.validation_tracks for track in identity.track_ids)
            )
            runs = [_run(checkpoint, train, others, folder)]
            if seeds > 1:
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
        yield Evaluation(
            checkpoint=checkpoint,
            checkpoint_path=checkpoint_path,
            data=data.report,
            held_out=held_out,
            same_file=same_file,
            trained_on=len(train),
            runs=runs,
        )


def _trained(checkpoint: Checkpoint, identity: DataIdentity, samples: Sequence[Sample]) -> Iterator[bool]:
    """Whether each track trained the checkpoint, as a whole flight or in part; see `training.data.identity`."""
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
    """Fit the baselines on `train`, if there is any, and score all; predictions go into the folder, where one is."""
    if not scored:
        raise InputError("none of the tracks held out from training is in the file", fix="train again")
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
        metrics={method: score_in_parts(of_method, checkpoint.decision) for method, of_method in predictions.items()},
        fitted_on=len(train),
    )
