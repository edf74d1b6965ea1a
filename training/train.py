"""`reentry train` in one call: a file of labelled tracks -> model.ckpt."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from reentry.files import whole_file
from reentry.tracks import ReadReport, tracks_fingerprint, tracks_table, write_tracks
from training.card import CARD_NAME, markdown
from training.checkpoint import save_checkpoint
from training.config import ModelConfig, TrainConfig
from training.data import read_labelled
from training.loop import Trained, fit
from training.metrics import without_nan

CHECKPOINT_NAME: Final = "model.ckpt"
SET_ASIDE_NAME: Final = "set_aside.csv"
VALIDATION_NAME: Final = "validation.parquet"
"""The tracks held out, which an export is verified on."""


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


def train_file(path: Path, out: Path, model: ModelConfig, config: TrainConfig) -> TrainReport:
    """Train on the labelled tracks of `path` and write `out`/model.ckpt, its card and the tracks held out.

    Rows set aside go to `out`/set_aside.csv.

    Raises:
        TrackFileError: the file cannot be used as a whole.
        InputError: what is in it cannot be learned from.
        ConfigError: a setting that training cannot work with.
    """
    started = time.monotonic()
    data = read_labelled(path)
    identity = tracks_fingerprint(sample.track for sample in data.samples)
    trained = fit(data.samples, model, config, fingerprint=identity)
    write_tracks(out / VALIDATION_NAME, (tracks_table([sample.track]) for sample in trained.validation))
    with whole_file(out / CARD_NAME) as part:
        part.write_text(markdown(trained.checkpoint), encoding="utf-8")
    save_checkpoint(out / CHECKPOINT_NAME, trained.checkpoint)
    if not data.report.clean:
        data.report.write_set_aside(out / SET_ASIDE_NAME)
    return TrainReport(
        checkpoint=out / CHECKPOINT_NAME,
        trained=trained,
        read=data.report,
        seconds=time.monotonic() - started,
    )
