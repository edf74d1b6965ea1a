"""State of an unfinished run, from which an interrupted training resumes with the same result."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from reentry.errors import CheckpointError
from reentry.runtime.files import whole_file
from reentry.schema import SCHEMA_VERSION
from training.config import ModelConfig, TrainConfig

UNFINISHED_NAME: Final = "unfinished.ckpt"
_IDENTITY: Final = "reentry_run"
_FIX: Final = "train without --resume"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnfinishedRun:
    """File with the state of a run, written after each epoch, and the data and settings that identify the run."""

    path: Path
    identity: dict[str, Any]
    """Data fingerprint, schema version and settings: all that the result of the run depends on."""

    @classmethod
    def of(cls, path: Path, *, fingerprint: str, model_config: ModelConfig, config: TrainConfig) -> UnfinishedRun:
        """Identify the run that trains with these settings on the data with this fingerprint."""
        settings = {f"model {name}": value for name, value in asdict(model_config).items()}
        settings |= {f"train {name}": value for name, value in asdict(config).items()}
        return cls(path=path, identity={"data": fingerprint, "schema version": SCHEMA_VERSION} | settings)

    def check(self) -> None:
        """Check that the file exists and belongs to this run.

        Raises:
            CheckpointError: the file is missing, unreadable, or belongs to another run.
        """
        if not self.path.is_file():
            raise CheckpointError("no interrupted run", where=str(self.path), fix=_FIX)
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
            stored = dict(content[_IDENTITY])
        except Exception as error:  # an arbitrary file can make the unpickler raise any exception
            raise CheckpointError("not an interrupted run", where=str(self.path), fix=_FIX) from error
        differing = [name for name in {**self.identity, **stored} if self.identity.get(name) != stored.get(name)]
        if differing:
            raise CheckpointError(
                "the interrupted run had other data or settings",
                where=str(self.path),
                expected=", ".join(f"{name} {stored.get(name)}" for name in differing),
                got=", ".join(f"{name} {self.identity.get(name)}" for name in differing),
                fix=f"use the data and settings of that run, or {_FIX}",
            )


class EpochCheckpoint(Checkpoint):
    """Callback that writes the state of an unfinished run after each epoch.

    Lightning runs `Checkpoint` callbacks last, after early stopping has decided whether to stop.
    """

    def __init__(self, unfinished: UnfinishedRun) -> None:
        self._unfinished = unfinished

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002
        """Store in the checkpoint which data and settings the run has, so that only the same ones resume it."""
        checkpoint[_IDENTITY] = self._unfinished.identity

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Write the file, unless training stops early."""
        if trainer.should_stop:
            return  # a run resumed from here would not stop; from the epoch before it stops at the same epoch
        path = self._unfinished.path
        with whole_file(path) if trainer.is_global_zero else nullcontext(path) as part:
            trainer.save_checkpoint(part)
