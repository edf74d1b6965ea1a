"""The epochs of a training: Lightning over the batches, in this process and those that share its work.

Shapes: B tracks, T steps, F features.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
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
from torch.utils.data import DataLoader, Dataset

from training.config import ModelConfig, TrainConfig
from training.data.batches import Batches
from training.data.samples import Batch, Collate, Counts, Sample, Statistics
from training.fit.place import Place
from training.fit.resume import Unfinished
from training.models.networks import network

VALIDATION_LOSS: Final = "validation_loss"
VALIDATION_TRACKS: Final = 64
"""Tracks of a batch of validation, at most."""

OnEpoch = Callable[[int, dict[str, float]], None]
"""Told each epoch, from 0, and its `train_loss`, `validation_loss` and `learning_rate`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What each process of a training is given; goes to another process as bytes."""

    train: Sequence[Sample]
    validation: Sequence[Sample]
    train_steps: npt.NDArray[np.int64]
    """Steps of each track of the training split."""
    validation_steps: npt.NDArray[np.int64]
    """Steps of each track held out."""
    collate: Collate
    model_config: ModelConfig
    config: TrainConfig
    unfinished: Unfinished | None
    """Where the run is kept as far as it has come; None keeps it nowhere."""
    resume: bool
    """Whether it goes on from there."""

    @classmethod
    def of(
        cls,
        train: Sequence[Sample],
        validation: Sequence[Sample],
        model_config: ModelConfig,
        config: TrainConfig,
        *,
        unfinished: Unfinished | None,
        resume: bool,
    ) -> Work:
        """With the lengths of the tracks, which are read for it."""
        return cls(
            train=train,
            validation=validation,
            train_steps=Counts.of(train).steps,
            validation_steps=Counts.of(validation).steps,
            collate=Collate(config, train),
            model_config=model_config,
            config=config,
            unfinished=unfinished,
            resume=resume,
        )


class Training(L.LightningModule):
    """A network in training, and the best it has been."""

    def __init__(self, work: Work, order: torch.Generator, batches: int, place: Place, on_epoch: OnEpoch) -> None:
        super().__init__()
        self.model = network(work.model_config)
        self.model.open_forget_gates(work.config.forget_bias)
        self.history: list[dict[str, float]] = []
        """Of each epoch, what `OnEpoch` is told."""
        self.best: dict[str, Tensor] = {}
        """The weights of the lowest validation loss, on the CPU; empty where no loss was a number."""
        self.best_loss = float("inf")
        self.best_epoch = -1
        self._config = work.config
        self._order = order
        self._batches = batches
        self._place = place
        self._on_epoch = on_epoch
        self._losses: list[Tensor] = []
        self._held: list[Tensor] = []

    def on_train_epoch_start(self) -> None:
        """Draw dropout by seed, epoch and process alone, so that a resumed run draws the same."""
        drawn = np.random.SeedSequence([self._config.seed, self.current_epoch, self._place.rank])
        torch.manual_seed(int(drawn.generate_state(1)[0]))

    def training_step(self, batch: Batch, _index: int) -> Tensor:
        """Weighted cross-entropy of a batch; of the whole batch, also where processes share it."""
        sums = self._sums(batch)
        # DDP averages gradients over the processes, whose shares of the batch differ in weight.
        loss = self._loss(sums, self._place.mean(sums))
        self._losses.append(loss.detach())
        return loss

    def validation_step(self, batch: Batch, _index: int) -> None:
        """Of a part of the tracks held out."""
        self._held.append(self._sums(batch))

    def on_validation_epoch_end(self) -> None:
        """Keep the weights where they are the best."""
        sums = self._place.mean(torch.stack(self._held).sum(dim=0))
        self._held.clear()
        loss = self._loss(sums, sums)
        self.log(VALIDATION_LOSS, loss)
        if float(loss) < self.best_loss:
            self.best_loss, self.best_epoch = float(loss), self.current_epoch
            self.best = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}

    def on_train_epoch_end(self) -> None:
        """Tell the epoch's figures."""
        schedule = self.lr_schedulers()
        assert isinstance(schedule, torch.optim.lr_scheduler.LRScheduler)
        figures = {
            "train_loss": float(self._place.mean(torch.stack(self._losses).mean())),
            "validation_loss": float(self.trainer.callback_metrics[VALIDATION_LOSS]),
            "learning_rate": float(schedule.get_last_lr()[0]),
        }
        self._losses.clear()
        self.history.append(figures)
        self._on_epoch(self.current_epoch, figures)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW, one cycle."""
        config = self._config
        optimizer = torch.optim.AdamW(self.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=config.learning_rate, total_steps=self._batches * config.epochs
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what Lightning does not know of."""
        checkpoint["reentry"] = {
            "history": self.history,
            "best": self.best,
            "best_loss": self.best_loss,
            "best_epoch": self.best_epoch,
            "order": self._order.get_state(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it back, and tell the epochs that are over."""
        kept = checkpoint["reentry"]
        self.history, self.best = kept["history"], kept["best"]
        self.best_loss, self.best_epoch = kept["best_loss"], kept["best_epoch"]
        self._order.set_state(kept["order"])
        for epoch, figures in enumerate(self.history):
            self._on_epoch(epoch, figures)

    def _sums(self, batch: Batch) -> Tensor:
        """Weighted cross-entropy, weights, worst alarms and tracks, each summed over the batch."""
        logits, _ = self.model(batch.features)
        logits = logits.float()
        losses = F.binary_cross_entropy_with_logits(logits, batch.phase, reduction="none")
        total = (losses * batch.weight).sum()
        alarms = torch.zeros_like(total)
        if self._config.alarm_weight:
            alarms = worst_alarms(logits, batch, self._config.onset_span).sum()
        return torch.stack([total, batch.weight.sum(), alarms, torch.full_like(total, len(batch.phase))])

    def _loss(self, sums: Tensor, of_all: Tensor) -> Tensor:
        """From the sums of `_sums`: the part of these in the mean over `of_all`."""
        total, _, alarms, _ = sums.unbind()
        _, weight, _, tracks = of_all.unbind()
        loss = total / weight
        return loss + self._config.alarm_weight * alarms / tracks if self._config.alarm_weight else loss


def worst_alarms(logits: Tensor, batch: Batch, span: float) -> Tensor:
    """Of each track the highest cross-entropy of a step more than four spans before its onset, (B,); 0 without one."""
    reach = round(4 * span)
    near = F.max_pool1d(batch.phase[:, None], 2 * reach + 1, stride=1, padding=reach)[:, 0] > 0  # (B, T)
    counted = ~near & (batch.weight > 0)
    return F.softplus(logits.masked_fill(~counted, -1e4).amax(dim=1))


def run_epochs(
    work: Work, place: Place, statistics: Statistics | None = None, on_epoch: OnEpoch | None = None
) -> Training:
    """Train to the end in this process; the others of the place do the same at the same time.

    Args:
        work: the same in each process.
        place: of this process among them.
        statistics: what the network's inputs are scaled by; the other processes are given the result.
        on_epoch: told each epoch.
    """
    config = work.config
    torch.manual_seed(config.seed)
    order = torch.Generator().manual_seed(config.seed)
    batches = Batches(
        work.train_steps,
        config.batch_size,
        generator=order,
        by_length=len(work.train) >= config.bucket_from,
        rank=place.rank,
        ranks=place.ranks,
    )
    held_batches = _held_batches(work.validation_steps, place)
    training = Training(work, order, len(batches), place, on_epoch or _nothing)
    if statistics is not None:
        training.model.fit_normalisation(statistics.features)
        training.model.fit_centres(statistics.before_onset, statistics.at_onset)
    callbacks: list[Callback] = [EarlyStopping(VALIDATION_LOSS, patience=config.patience), *place.callbacks()]
    if work.unfinished:
        callbacks.append(work.unfinished.keeper())
    trainer = L.Trainer(
        accelerator=config.accelerator,
        **place.trainer_settings(),
        precision="bf16-mixed" if _on_gpu(config.accelerator) else "32-true",
        max_epochs=config.epochs,
        gradient_clip_val=config.gradient_clip,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=bool(work.unfinished),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    trainer.fit(
        training,
        DataLoader(_Tracks(work.train), batch_sampler=batches, generator=order, collate_fn=work.collate),
        DataLoader(_Tracks(work.validation), batch_sampler=held_batches, collate_fn=work.collate),
        ckpt_path=work.unfinished.path if work.unfinished and work.resume else None,
        weights_only=True,
    )
    return training


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep Lightning from printing tips, the hardware it sees, and advice on workers that are not needed."""
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


class _Tracks(Dataset[Sample]):
    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[index]


def _held_batches(lengths: npt.NDArray[np.int64], place: Place) -> Batches:
    size = max(VALIDATION_TRACKS, place.ranks)
    by_length = len(lengths) > VALIDATION_TRACKS
    if len(lengths) < place.ranks:  # too few to share: each process takes all, and their mean is the same
        return Batches(lengths, size, by_length=by_length)
    return Batches(lengths, size, by_length=by_length, rank=place.rank, ranks=place.ranks)


def _nothing(_epoch: int, _figures: dict[str, float]) -> None:
    pass


def _on_gpu(accelerator: str) -> bool:
    return accelerator != "cpu" and torch.cuda.is_available()
