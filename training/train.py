"""`reentry train` in one call: a file of labelled tracks -> model.ckpt."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pandas as pd

from reentry.runtime.arguments import require_replaceable
from reentry.runtime.files import check_writable, writing
from reentry.runtime.signals import ended_by_signals
from reentry.tracks import (
    ReadReport,
    fingerprint,
    flight_fingerprint,
    tracks_fingerprint,
    tracks_table,
    write_tracks,
)
from reentry.tracks.read import IN_MEMORY_BYTES
from reentry.tracks.store import TRACKS_PER_PART
from training.checkpoint import VALIDATION_NAME, save_checkpoint
from training.config import ModelConfig, TrainConfig
from training.data.leakage import sketches
from training.data.samples import Sample
from training.data.stored import open_labelled
from training.evaluation.metrics import without_nan
from training.fit.fit import Trained, fit
from training.fit.module import OnEpoch
from training.fit.resume import UNFINISHED_NAME
from training.runs.card import CARD_NAME, ERRORS_NAME, RELIABILITY_NAME, write_card

CHECKPOINT_NAME: Final = "model.ckpt"
SET_ASIDE_NAME: Final = "set_aside.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReport:
    """What was trained, on what, and how good it is."""

    checkpoint: Path
    trained: Trained
    read: ReadReport
    seconds: float

    def summary(self) -> str:
        """A few lines for a person."""
        metrics = self.trained.checkpoint.metrics
        return "\n".join(
            [
                f"{self.checkpoint}: trained on {len(self.trained.train)} tracks in {self.seconds:.0f} s; "
                f"weights of epoch {self.trained.best_epoch + 1} of {len(self.trained.losses)}",
                f"validation, {len(self.trained.validation)} tracks: onset RMSE {metrics['onset_rmse']:.3f} s, "
                f"worst {metrics['onset_worst']:.3f} s, {metrics['onset_exact']:.0%} on the exact step, "
                f"{metrics['missed_onsets']:.0f} missed, {metrics['false_onsets']:.0f} false; F1 {metrics['f1']:.4f}",
            ]
        )

    def as_dict(self) -> dict[str, object]:
        """The same for a script."""
        checkpoint = self.trained.checkpoint
        return {
            "checkpoint": str(self.checkpoint),
            "seed": checkpoint.seed,
            "train_tracks": len(self.trained.train),
            "validation_tracks": list(checkpoint.validation_tracks),
            "set_aside": len(self.read.set_aside),
            "seconds": self.seconds,
            "epochs": len(self.trained.losses),
            "best_epoch": self.trained.best_epoch + 1,
            "metrics": without_nan(checkpoint.metrics),
        }


def train_file(
    path: Path,
    out: Path,
    model: ModelConfig,
    config: TrainConfig,
    *,
    resume: bool = False,
    on_epoch: OnEpoch | None = None,
    in_memory_bytes: int = IN_MEMORY_BYTES,
) -> TrainReport:
    """Train on the labelled tracks of `path` and write `out`/model.ckpt, its card and the tracks held out.

    Rows set aside go to `out`/set_aside.csv. While it goes on, `out`/unfinished.ckpt keeps the run. What an earlier
    training left in `out` stays as it was until all of this one is written.

    Args:
        path: labelled tracks; a large file is read into a temporary folder, not into memory.
        out: the folder.
        model: the network's shape.
        config: how to train.
        resume: whether to go on with the run of `out`/unfinished.ckpt, to the end it would have come to; else what is
            kept there is given up.
        on_epoch: told each epoch, see `fit`.
        in_memory_bytes: see `open_labelled`.

    Raises:
        TrackFileError: the file cannot be used as a whole.
        InputError: what is in it cannot be learned from, or `out` cannot be written to.
        ConfigError: a setting that training cannot work with.
        CheckpointError: no run to go on with, or one of other data or settings.
        Ended: a signal asked for the end.
    """
    started = time.monotonic()
    check_writable(out)
    require_replaceable(
        out,
        (CHECKPOINT_NAME, SET_ASIDE_NAME, VALIDATION_NAME, UNFINISHED_NAME, CARD_NAME, ERRORS_NAME, RELIABILITY_NAME),
    )
    unfinished = out / UNFINISHED_NAME
    with ended_by_signals(), open_labelled(path, robust=model.robust, in_memory_bytes=in_memory_bytes) as data:
        identity = tracks_fingerprint(sample.track for sample in data.samples)
        if not resume:
            with writing(unfinished):
                unfinished.unlink(missing_ok=True)  # or an early end would be told to have kept this run
        with _told_how_to_resume(unfinished):
            trained = fit(
                data.samples,
                model,
                config,
                fingerprint=identity,
                on_epoch=on_epoch,
                unfinished=unfinished,
                resume=resume,
            )
            checkpoint = replace(
                trained.checkpoint,
                data_file_fingerprint=fingerprint(path),
                trained_flights=frozenset(flight_fingerprint(sample.track) for sample in trained.train),
                trained_rows=sketches(sample.track for sample in trained.train),
            )
            trained = replace(trained, checkpoint=checkpoint)
            with _appearing_together(out) as folder:
                write_tracks(folder / VALIDATION_NAME, _tables(trained.validation))
                write_card(folder, trained, data.report)
                data.report.write_set_aside(folder / SET_ASIDE_NAME)
                save_checkpoint(folder / CHECKPOINT_NAME, checkpoint)
        unfinished.unlink(missing_ok=True)
    return TrainReport(
        checkpoint=out / CHECKPOINT_NAME,
        trained=trained,
        read=data.report,
        seconds=time.monotonic() - started,
    )


def _tables(samples: Sequence[Sample]) -> Iterator[pd.DataFrame]:
    for start in range(0, len(samples), TRACKS_PER_PART):
        yield tracks_table([sample.track for sample in samples[start : start + TRACKS_PER_PART]])


@contextmanager
def _appearing_together(out: Path) -> Iterator[Path]:
    """A folder whose files move to `out` when the block ends, so that no model stands beside files of another.

    The old model goes first and the new one comes last: killed in between, there is none, and unfinished.ckpt goes on
    to the same end.

    Raises:
        InputError: `out` cannot be written to.
    """
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(dir=out, prefix=".new-")
    with temporary as name:
        folder = Path(name)
        yield folder
        files = sorted(folder.iterdir(), key=lambda path: path.name == CHECKPOINT_NAME)
        with writing(out):
            (out / CHECKPOINT_NAME).unlink(missing_ok=True)
            for file in files:
                file.replace(out / file.name)


@contextmanager
def _told_how_to_resume(unfinished: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if unfinished.is_file():
            print(f"interrupted: {unfinished} keeps the run, the same command with --resume goes on", file=sys.stderr)
        raise
