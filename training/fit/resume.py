"""A run as far as it has come, so that one that was interrupted goes on to the same end."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """The file of a run that is under way, written after each epoch; and which run it is."""

    path: Path
    identity: dict[str, Any]
    """What the run's end depends on: data and settings."""

    @classmethod
    def of(cls, path: Path, *, fingerprint: str, model_config: ModelConfig, config: TrainConfig) -> Unfinished:
        """Of the run on the data of `fingerprint`."""
        settings = {f"model {name}": value for name, value in asdict(model_config).items()}
        settings |= {f"train {name}": value for name, value in asdict(config).items()}
        return cls(path=path, identity={"data": fingerprint, "schema version": SCHEMA_VERSION} | settings)

    def check(self) -> None:
        """Make sure that the file is there and of this run.

        Raises:
            CheckpointError: it is not.
        """
        anew = "train without --resume"
        if not self.path.is_file():
            raise CheckpointError("no interrupted run", where=str(self.path), fix=anew)
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
            kept = dict(content[_IDENTITY])
        except Exception as error:  # whatever the unpickler meets in a file of any kind
            raise CheckpointError("not an interrupted run", where=str(self.path), fix=anew) from error
        differs = [name for name in {**self.identity, **kept} if self.identity.get(name) != kept.get(name)]
        if differs:
            raise CheckpointError(
                "an interrupted run of other data or settings",
                where=str(self.path),
                expected=", ".join(f"{name} {kept.get(name)}" for name in differs),
                got=", ".join(f"{name} {self.identity.get(name)}" for name in differs),
                fix=f"give the same as then, or {anew}",
            )

    def keeper(self) -> Checkpoint:
        """The callback that writes it."""
        return _Keeper(self)


class _Keeper(Checkpoint):
    """Lightning calls checkpoints last, when the epoch's other callbacks know how it went."""

    def __init__(self, unfinished: Unfinished) -> None:
        self._unfinished = unfinished

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002
        checkpoint[_IDENTITY] = self._unfinished.identity

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        if trainer.should_stop:
            return  # resumed from here it would not stop; from the epoch before it comes to the same end
        path = self._unfinished.path
        with whole_file(path) if trainer.is_global_zero else nullcontext(path) as part:
            trainer.save_checkpoint(part)
