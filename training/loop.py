"""Training: Lightning runs the epochs, the weights of the lowest validation loss are kept.

Shapes: B tracks, T steps, F features.
"""

from __future__ import annotations

import logging
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from reentry.decision import DecisionConfig
from reentry.errors import ConfigError
from reentry.monitoring import Reference
from reentry.progress import progress
from training.checkpoint import Checkpoint
from training.config import ModelConfig, TrainConfig
from training.data import Batch, Collate, Sample, split
from training.metrics import Prediction, score
from training.model import ReentryNetwork, network

VALIDATION_LOSS = "validation_loss"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a training gives."""

    checkpoint: Checkpoint
    train: list[Sample]
    validation: list[Sample]
    losses: list[float]
    """Mean training loss of each epoch."""
    best_epoch: int
    """The epoch, from 0, whose weights were kept."""


def fit(
    samples: Sequence[Sample],
    model_config: ModelConfig,
    config: TrainConfig,
    *,
    fingerprint: str,
    show_progress: bool = True,
) -> Trained:
    """Train a network on 80 % of the tracks (`config.validation_share`) and measure it on the others.

    Args:
        samples: labelled tracks.
        model_config: the network's shape.
        config: how to train.
        fingerprint: of the data, for the checkpoint.
        show_progress: False where the caller shows its own.

    Raises:
        InputError: the split left only one phase to train on.
        ConfigError: the learning rate is so high that the loss is no number.
    """
    train, validation = split(samples, config.validation_share, config.seed)
    collate = Collate(config, train)
    decision = DecisionConfig()
    with (
        torch.random.fork_rng(),
        one_thread(),
        _quiet_lightning(),
        tempfile.TemporaryDirectory(prefix="reentry-train-") as scratch,
    ):
        torch.manual_seed(config.seed)
        model = network(model_config)
        model.fit_normalisation(torch.cat([sample.features for sample in train]))
        order = torch.Generator().manual_seed(config.seed)
        batches = DataLoader(_Tracks(train), config.batch_size, shuffle=True, generator=order, collate_fn=collate)
        held = DataLoader(_Tracks(validation), len(validation), collate_fn=collate)
        training = _Training(model, config, steps=len(batches) * config.epochs)
        best = ModelCheckpoint(dirpath=scratch, monitor=VALIDATION_LOSS, save_weights_only=True)
        with progress("training", config.epochs, "epochs") if show_progress else nullcontext(_nothing) as advance:
            trainer = L.Trainer(
                accelerator=config.accelerator,
                devices=1,
                precision="bf16-mixed" if _on_gpu(config.accelerator) else "32-true",
                max_epochs=config.epochs,
                gradient_clip_val=config.gradient_clip,
                callbacks=[best, EarlyStopping(VALIDATION_LOSS, patience=config.patience), _Progress(advance)],
                default_root_dir=scratch,
                logger=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
            )
            trainer.fit(training, batches, held)
        if best.best_model_score is None or not torch.isfinite(best.best_model_score):
            raise ConfigError(
                "training diverged: the loss is no number",
                got=f"learning rate {config.learning_rate}",
                fix="a lower learning rate",
            )
        kept = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
        training.load_state_dict(kept["state_dict"])
    model = model.cpu().eval()
    metrics = score(predict(model, validation), decision)
    checkpoint = Checkpoint(
        model=model,
        train_config=config,
        decision=decision,
        data_fingerprint=fingerprint,
        git_revision=git_revision(),
        metrics=metrics.as_dict(),
        validation_tracks=tuple(sample.track.track_id for sample in validation),
        reference=Reference.of(
            torch.cat([sample.features for sample in train]).numpy(),
            torch.cat([sample.phase for sample in train]).numpy(),
            used=model_config.features,
        ),
    )
    return Trained(
        checkpoint=checkpoint,
        train=train,
        validation=validation,
        losses=training.losses,
        best_epoch=int(kept["epoch"]),
    )


@torch.no_grad()
def predict(model: ReentryNetwork, samples: Sequence[Sample]) -> list[Prediction]:
    """Probabilities of whole tracks, one after the other, by a network in evaluation mode."""
    return [
        Prediction(track=sample.track, probability=torch.sigmoid(model(sample.features[None])[0][0]).numpy())
        for sample in samples
    ]


class _Tracks(Dataset[Sample]):
    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[index]


class _Training(L.LightningModule):
    def __init__(self, model: ReentryNetwork, config: TrainConfig, steps: int) -> None:
        super().__init__()
        self.model = model
        self.losses: list[float] = []
        self._config = config
        self._steps = steps
        self._sum: list[Tensor] = []

    def training_step(self, batch: Batch, _index: int) -> Tensor:
        loss = self._loss(batch)
        self._sum.append(loss.detach())
        return loss

    def on_train_epoch_end(self) -> None:
        self.losses.append(float(torch.stack(self._sum).mean()))
        self._sum.clear()

    def validation_step(self, batch: Batch, _index: int) -> None:
        self.log(VALIDATION_LOSS, self._loss(batch), batch_size=len(batch.phase))

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=self._config.learning_rate, weight_decay=self._config.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=self._config.learning_rate, total_steps=self._steps
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _loss(self, batch: Batch) -> Tensor:
        logits, _ = self.model(batch.features)
        losses = F.binary_cross_entropy_with_logits(logits.float(), batch.phase, reduction="none")
        loss = (losses * batch.weight).sum() / batch.weight.sum()
        if self._config.alarm_weight:
            alarms = worst_alarms(logits.float(), batch, self._config.onset_span)
            loss = loss + self._config.alarm_weight * alarms.mean()
        return loss


def worst_alarms(logits: Tensor, batch: Batch, span: float) -> Tensor:
    """Of each track the highest cross-entropy of a step more than four spans before its onset, (B,); 0 without one."""
    reach = round(4 * span)
    near = F.max_pool1d(batch.phase[:, None], 2 * reach + 1, stride=1, padding=reach)[:, 0] > 0  # (B, T)
    counted = ~near & (batch.weight > 0)
    return F.softplus(logits.masked_fill(~counted, -1e4).amax(dim=1))


class _Progress(Callback):
    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance = advance

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        self._advance(1)


def _nothing(_amount: int) -> None:
    pass


def _on_gpu(accelerator: str) -> bool:
    return accelerator != "cpu" and torch.cuda.is_available()


@contextmanager
def one_thread() -> Iterator[None]:
    """Steps this small run slower on more threads, and by far slower where the cores are shared with others."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning from printing tips, the hardware it sees, and advice on workers that data this small needs not."""
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


def git_revision() -> str:
    """Commit of the program's checkout; "-dirty" follows where tracked files had changed, "unknown" outside one."""
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return answer.stdout.strip()
