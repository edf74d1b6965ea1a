"""Training: Lightning runs the epochs, the weights of the lowest validation loss are kept.

Shapes: B tracks, T steps, F features.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from reentry.decision import DecisionConfig
from reentry.errors import ConfigError
from reentry.runtime.progress import progress
from reentry.runtime.signals import ended_by_signals
from training.checkpoint import Checkpoint
from training.config import ModelConfig, TrainConfig
from training.data.reference import reference_of
from training.data.samples import Sample, Statistics, split
from training.evaluation.metrics import Prediction, score
from training.fit.module import OnEpoch, Work, quiet_lightning, run_epochs
from training.fit.processes import in_processes
from training.fit.resume import Unfinished
from training.fit.threads import one_thread
from training.models.networks import ReentryNetwork

STATISTICS_STEPS: Final = 1_000_000
"""Steps that the normalisation is taken from; of more, evenly spaced ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a training gives."""

    checkpoint: Checkpoint
    train: Sequence[Sample]
    validation: Sequence[Sample]
    history: list[dict[str, float]]
    """Of each epoch the `train_loss`, `validation_loss` and `learning_rate`."""
    best_epoch: int
    """The epoch, from 0, whose weights were kept."""

    @property
    def losses(self) -> list[float]:
        """Mean training loss of each epoch."""
        return [figures["train_loss"] for figures in self.history]


def fit(
    samples: Sequence[Sample],
    model_config: ModelConfig,
    config: TrainConfig,
    *,
    fingerprint: str,
    show_progress: bool = True,
    on_epoch: OnEpoch | None = None,
    unfinished: Path | None = None,
    resume: bool = False,
) -> Trained:
    """Train a network on 80 % of the tracks (`config.validation_share`) and measure it on the others.

    Args:
        samples: labelled tracks.
        model_config: the network's shape.
        config: how to train.
        fingerprint: of the data, for the checkpoint.
        show_progress: False where the caller shows its own.
        on_epoch: told each epoch as it ends, in order; of a resumed run also those before.
        unfinished: file that keeps the run as far as it has come, for the caller to remove; None keeps it nowhere.
        resume: whether to go on with the run kept there.

    Raises:
        InputError: the split left only one phase to train on.
        ConfigError: the learning rate is so high that the loss is no number, or there are more devices than tracks.
        CheckpointError: no run to go on with, or one of other data or settings.
        ReentryError: a process of the training died.
        Ended: a signal asked for the end.
    """
    train, validation = split(samples, config.validation_share, config.seed)
    if config.devices > len(train):
        raise ConfigError("fewer tracks than devices", expected=f"devices to {len(train)}", got=str(config.devices))
    run = None
    if unfinished:
        run = Unfinished.of(unfinished, fingerprint=fingerprint, model_config=model_config, config=config)
        if resume:
            run.check()
    work = Work.of(train, validation, model_config, config, unfinished=run, resume=resume)
    statistics = Statistics.of(train, STATISTICS_STEPS)
    with (
        torch.random.fork_rng(),
        one_thread(),
        quiet_lightning(),
        _ending(),
        progress("training", config.epochs, "epochs") if show_progress else nullcontext(_nothing) as advance,
        in_processes(work) as place,
    ):

        def report(epoch: int, figures: dict[str, float]) -> None:
            advance(1)
            if on_epoch:
                on_epoch(epoch, figures)

        training = run_epochs(work, place, statistics=statistics, on_epoch=report)
    if not training.best:
        raise ConfigError(
            "training diverged: the loss is no number",
            got=f"learning rate {config.learning_rate}",
            fix="a lower learning rate",
        )
    model = training.model.cpu().eval()
    model.load_state_dict(training.best)
    decision = DecisionConfig()
    metrics = score(predict(model, validation), decision)
    checkpoint = Checkpoint(
        model=model,
        train_config=config,
        decision=decision,
        data_fingerprint=fingerprint,
        git_revision=git_revision(),
        metrics=metrics.as_dict(),
        validation_tracks=tuple(sample.track.track_id for sample in validation),
        reference=reference_of(train, used=model_config.features),
    )
    return Trained(
        checkpoint=checkpoint,
        train=train,
        validation=validation,
        history=training.history,
        best_epoch=training.best_epoch,
    )


@torch.no_grad()
def predict(model: ReentryNetwork, samples: Sequence[Sample]) -> list[Prediction]:
    """Probabilities of whole tracks, one after the other, by a network in evaluation mode."""
    return [
        Prediction(track=sample.track, probability=torch.sigmoid(model(sample.features[None])[0][0]).numpy())
        for sample in samples
    ]


@contextmanager
def _ending() -> Iterator[None]:
    """A signal ends the training by `Ended`, which Lightning would turn into an exit with status 1."""
    with ended_by_signals():
        try:
            yield
        except SystemExit as error:
            if isinstance(error.__context__, KeyboardInterrupt):
                raise error.__context__ from None
            raise


def _nothing(_amount: int) -> None:
    pass


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
