"""Training loop: a Lightning module and trainer that run the epochs, in one process or in several that share batches.

Shapes: B tracks, T steps, F features.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import lightning as L
import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from training.config import ModelConfig, TrainConfig
from training.data.batches import Batch, Batches, Collate
from training.data.samples import Chosen, Statistics
from training.fit.resume import EpochCheckpoint, UnfinishedRun
from training.fit.threads import device
from training.fit.worker import Worker
from training.models.networks import network

VALIDATION_LOSS: Final = "validation_loss"
VALIDATION_TRACKS: Final = 64
"""Largest number of tracks in a validation batch."""

OnEpoch = Callable[[int, dict[str, float]], None]
"""Callback with an epoch's index, from 0, and its `train_loss`, `validation_loss` and `learning_rate`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingTask:
    """Input of every training process; it is pickled for the processes that are started."""

    train: Chosen
    validation: Chosen
    model_config: ModelConfig
    config: TrainConfig
    unfinished: UnfinishedRun | None
    """File that keeps the state of the run; None keeps no state."""
    resume: bool
    """Whether to resume from that file."""


class Training(L.LightningModule):
    """A network in training, its history and its best weights so far."""

    def __init__(
        self, task: TrainingTask, generator: torch.Generator, batches: int, worker: Worker, on_epoch: OnEpoch | None
    ) -> None:
        super().__init__()
        self.model = network(task.model_config)
        self.model.open_forget_gates(task.config.forget_bias)
        self.history: list[dict[str, float]] = []
        """Losses and metrics of each epoch, the same that `OnEpoch` receives."""
        self.best: dict[str, Tensor] = {}
        """Weights with the lowest validation loss, on the CPU; empty if every loss was NaN."""
        self.best_loss = float("inf")
        self.best_epoch = -1
        self._config = task.config
        self._generator = generator
        self._batches = batches
        self._worker = worker
        self._on_epoch = on_epoch or (lambda _epoch, _figures: None)
        self._train_losses: list[Tensor] = []
        self._validation_sums: list[Tensor] = []

    def on_train_epoch_start(self) -> None:
        """Seed dropout from seed, epoch and rank alone, so that a resumed run draws the same."""
        sequence = np.random.SeedSequence([self._config.seed, self.current_epoch, self._worker.rank])
        torch.manual_seed(int(sequence.generate_state(1)[0]))

    def training_step(self, batch: Batch, _index: int) -> Tensor:
        """Compute the loss of a batch, normalised over the whole batch even if processes share it."""
        sums = self._sums(batch)
        # DDP averages the gradients of the processes, whose shares of the batch have different total weights.
        loss = self._loss(sums, self._worker.mean(sums))
        self._train_losses.append(loss.detach())
        return loss

    def validation_step(self, batch: Batch, _index: int) -> None:
        """Collect the loss terms of a validation batch."""
        self._validation_sums.append(self._sums(batch))

    def on_validation_epoch_end(self) -> None:
        """Keep a copy of the weights if their validation loss is the lowest so far."""
        sums = self._worker.mean(torch.stack(self._validation_sums).sum(dim=0))
        self._validation_sums.clear()
        loss = self._loss(sums, sums)
        self.log(VALIDATION_LOSS, loss)
        if float(loss) < self.best_loss:
            self.best_loss, self.best_epoch = float(loss), self.current_epoch
            self.best = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}

    def on_train_epoch_end(self) -> None:
        """Append the epoch's figures to the history and report them."""
        schedule = self.lr_schedulers()
        assert isinstance(schedule, torch.optim.lr_scheduler.LRScheduler)
        figures = {
            "train_loss": float(self._worker.mean(torch.stack(self._train_losses).mean())),
            "validation_loss": float(self.trainer.callback_metrics[VALIDATION_LOSS]),
            "learning_rate": float(schedule.get_last_lr()[0]),
        }
        self._train_losses.clear()
        self.history.append(figures)
        self._on_epoch(self.current_epoch, figures)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Create AdamW with a one-cycle learning rate."""
        config = self._config
        optimizer = torch.optim.AdamW(self.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=config.learning_rate, total_steps=self._batches * config.epochs
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the state that Lightning does not save."""
        checkpoint["reentry"] = {
            "history": self.history,
            "best": self.best,
            "best_loss": self.best_loss,
            "best_epoch": self.best_epoch,
            "order": self._generator.get_state(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore that state, and report the epochs before the interruption."""
        kept = checkpoint["reentry"]
        self.history, self.best = kept["history"], kept["best"]
        self.best_loss, self.best_epoch = kept["best_loss"], kept["best_epoch"]
        self._generator.set_state(kept["order"])
        for epoch, figures in enumerate(self.history):
            self._on_epoch(epoch, figures)

    def _sums(self, batch: Batch) -> Tensor:
        """Sums over a batch, (4,): weighted cross-entropy, weights, terms of each track, number of tracks."""
        logits, _ = self.model(batch.features)
        logits = logits.float()
        losses = F.binary_cross_entropy_with_logits(logits, batch.phase, reduction="none")
        total = (losses * batch.weight).sum()
        config, of_tracks = self._config, torch.zeros_like(total)
        if config.alarm_weight:
            of_tracks = of_tracks + config.alarm_weight * worst_alarms(logits, batch, config.onset_span).sum()
        return torch.stack([total, batch.weight.sum(), of_tracks, torch.full_like(total, len(batch.phase))])

    def _loss(self, sums: Tensor, normaliser: Tensor) -> Tensor:
        """Loss of the terms in `sums`, divided by the weights and tracks in `normaliser`; see `_sums` for both."""
        total, _, of_tracks, _ = sums.unbind()
        _, weight, _, tracks = normaliser.unbind()
        return total / weight + of_tracks / tracks


def worst_alarms(logits: Tensor, batch: Batch, span: float) -> Tensor:
    """Highest cross-entropy of a step more than four spans before each track's onset, (B,); 0 without such a step."""
    reach = round(4 * span)
    near = F.max_pool1d(batch.phase[:, None], 2 * reach + 1, stride=1, padding=reach)[:, 0] > 0  # (B, T)
    counted = ~near & (batch.weight > 0)
    return F.softplus(logits.masked_fill(~counted, -1e4).amax(dim=1))


def run_epochs(
    task: TrainingTask, worker: Worker, statistics: Statistics | None = None, on_epoch: OnEpoch | None = None
) -> Training:
    """Run all epochs of a task in this process; the other workers must do the same at the same time.

    Only the first worker needs the statistics for the normalisation, since DDP sends its weights to the others.
    """
    config = task.config
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    batches = Batches(
        task.train.counts.steps,
        config.batch_size,
        generator=generator,
        by_length=len(task.train) >= config.bucket_from,
        rank=worker.rank,
        ranks=worker.ranks,
    )
    training = Training(task, generator, len(batches), worker, on_epoch)
    if statistics is not None:
        training.model.fit_normalisation(statistics.features)
        training.model.fit_centres(statistics.before_onset, statistics.at_onset)
        training.model.fit_prior(statistics.settled)
    callbacks: list[Callback] = [EarlyStopping(VALIDATION_LOSS, patience=config.patience), *worker.callbacks()]
    if task.unfinished:
        callbacks.append(EpochCheckpoint(task.unfinished))
    trainer = L.Trainer(
        accelerator=config.accelerator,
        **worker.trainer_settings(),
        precision="bf16-mixed" if device(config.accelerator) == "gpu" else "32-true",
        max_epochs=config.epochs,
        gradient_clip_val=config.gradient_clip,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=bool(task.unfinished),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    collate = Collate(config, task.train)
    validation_batches = _validation_batches(task.validation.counts.steps, worker)
    trainer.fit(
        training,
        DataLoader(task.train, batch_sampler=batches, generator=generator, collate_fn=collate),
        DataLoader(task.validation, batch_sampler=validation_batches, collate_fn=collate),
        ckpt_path=task.unfinished.path if task.unfinished and task.resume else None,
        weights_only=True,
    )
    return training


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's tips, hardware report and advice on data loader workers."""
    names = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _validation_batches(lengths: npt.NDArray[np.int64], worker: Worker) -> Batches:
    size = max(VALIDATION_TRACKS, worker.ranks)
    by_length = len(lengths) > VALIDATION_TRACKS
    if len(lengths) < worker.ranks:  # too few to share: each process takes all of them, which gives the same mean
        return Batches(lengths, size, by_length=by_length)
    return Batches(lengths, size, by_length=by_length, rank=worker.rank, ranks=worker.ranks)
