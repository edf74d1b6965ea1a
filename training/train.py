"""Training on labelled tracks, which writes a checkpoint, its model card and the validation tracks."""

from __future__ import annotations

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
from reentry.tracks import ReadReport, tracks_table, write_tracks
from reentry.tracks.store import TRACKS_PER_PART
from training.checkpoint import VALIDATION_NAME, save_checkpoint
from training.config import ModelConfig, TrainConfig
from training.data.identity import DataIdentity
from training.data.samples import Sample
from training.data.stored import TrainingFile
from training.data.training_data import TrainingData
from training.evaluation.metrics import without_nan
from training.fit.fit import Trained, fit
from training.fit.module import OnEpoch
from training.fit.resume import UNFINISHED_NAME
from training.runs.card import CARD_NAME, ERRORS_NAME, RELIABILITY_NAME, write_card

CHECKPOINT_NAME: Final = "model.ckpt"
SET_ASIDE_NAME: Final = "set_aside.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReport:
    """Result of a training: the checkpoint, its data and its metrics."""

    checkpoint: Path
    trained: Trained
    read: ReadReport
    seconds: float

    def summary(self) -> str:
        """Summary in a few lines of text."""
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
        """Summary as a JSON-serialisable dict."""
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


def train_file(path: Path, out: Path, model: ModelConfig, config: TrainConfig) -> TrainReport:
    """Train on the labelled tracks of a file, see `train_tracks`."""
    return train_tracks(TrainingFile(path=path), out, model, config)


def train_tracks(
    data: TrainingData,
    out: Path,
    model: ModelConfig,
    config: TrainConfig,
    *,
    resume: bool = False,
    on_epoch: OnEpoch | None = None,
) -> TrainReport:
    """Train on labelled tracks and write `out`/model.ckpt, its model card and the validation tracks.

    Rows that are set aside are written to `out`/set_aside.csv. During training, `out`/unfinished.ckpt keeps the state
    of the run. The files of an earlier training in `out` are replaced only when all new files are complete.

    Args:
        data: labelled tracks, of a file or a table.
        out: output folder.
        model: settings of the network.
        config: settings of the training.
        resume: whether to resume the run in `out`/unfinished.ckpt, with the same result as without the interruption.
            Otherwise that file is deleted.
        on_epoch: callback after each epoch, see `fit`.

    Raises:
        InputError: the data cannot be used or trained on, or `out` is not writable.
        ConfigError: the loss became NaN, or there are more devices than training tracks.
        CheckpointError: there is no run to resume, or it had other data or settings.
        Ended: a signal requested shutdown.
    """
    started = time.monotonic()
    check_writable(out)
    require_replaceable(
        out,
        (CHECKPOINT_NAME, SET_ASIDE_NAME, VALIDATION_NAME, UNFINISHED_NAME, CARD_NAME, ERRORS_NAME, RELIABILITY_NAME),
    )
    unfinished = out / UNFINISHED_NAME
    with ended_by_signals(), data.open(model.groups) as labelled:
        identity = DataIdentity.of(sample.track for sample in labelled.samples)
        if not resume:
            with writing(unfinished):
                unfinished.unlink(missing_ok=True)  # so that an early interruption does not offer to resume an old run
        trained = fit(
            labelled.samples,
            model,
            config,
            fingerprint=identity.tracks_fingerprint,
            on_epoch=on_epoch,
            unfinished=unfinished,
            resume=resume,
        )
        train = trained.train.indices
        checkpoint = replace(
            trained.checkpoint,
            data_file_fingerprint=labelled.file_fingerprint,
            data_table=dict(labelled.table) if labelled.table else None,
            trained_flights=frozenset(identity.flight_fingerprints[index] for index in train),
            trained_rows=identity.sketches[list(train)],
        )
        trained = replace(trained, checkpoint=checkpoint)
        with _replaced_together(out) as folder:
            write_tracks(folder / VALIDATION_NAME, _tables(trained.validation))
            write_card(folder, trained, labelled.report, labelled.origin)
            labelled.report.write_set_aside(folder / SET_ASIDE_NAME)
            save_checkpoint(folder / CHECKPOINT_NAME, checkpoint)
        unfinished.unlink(missing_ok=True)
    return TrainReport(
        checkpoint=out / CHECKPOINT_NAME,
        trained=trained,
        read=labelled.report,
        seconds=time.monotonic() - started,
    )


def _tables(samples: Sequence[Sample]) -> Iterator[pd.DataFrame]:
    for start in range(0, len(samples), TRACKS_PER_PART):
        yield tracks_table([sample.track for sample in samples[start : start + TRACKS_PER_PART]])


@contextmanager
def _replaced_together(out: Path) -> Iterator[Path]:
    """Give a temporary folder whose files move to `out` when the block ends.

    The old checkpoint is deleted first and the new one moves last. If the process is killed in between, `out` has no
    checkpoint rather than one beside files of another training, and the run can be resumed from unfinished.ckpt.

    Raises:
        InputError: `out` is not writable.
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
