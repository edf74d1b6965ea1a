"""Fitting a network to labelled tracks; the weights with the lowest validation loss are kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from reentry.decision import DecisionConfig
from reentry.errors import ConfigError
from reentry.runtime.progress import progress
from reentry.runtime.revision import git_revision
from reentry.runtime.signals import ended_by_signals
from training.checkpoint import Checkpoint
from training.config import ModelConfig, TrainConfig
from training.data.reference import reference_of
from training.data.samples import Chosen, Sample, Statistics, split
from training.evaluation.metrics import score
from training.evaluation.predictions import predict
from training.fit.module import OnEpoch, TrainingTask, quiet_lightning, run_epochs
from training.fit.processes import in_processes
from training.fit.resume import UnfinishedRun
from training.fit.threads import one_thread

STATISTICS_STEPS: Final = 1_000_000
"""Number of steps that the normalisation is computed from. A larger training split is sampled evenly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """Result of a training: the checkpoint, the splits and the history."""

    checkpoint: Checkpoint
    train: Chosen
    validation: Chosen
    history: list[dict[str, float]]
    """The `train_loss`, `validation_loss` and `learning_rate` of each epoch."""
    best_epoch: int
    """Index, from 0, of the epoch whose weights were kept."""

    @property
    def losses(self) -> list[float]:
        """Mean training loss of each epoch."""
        return [figures["train_loss"] for figures in self.history]


@one_thread()
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
    """Train a network on most of the tracks and measure it on the others, the share `config.validation_share`.

    The sums run on one thread, so that the result on a CPU does not depend on the number of cores.

    Args:
        samples: labelled tracks.
        model_config: settings of the network.
        config: settings of the training.
        fingerprint: fingerprint of the tracks, which the checkpoint stores.
        show_progress: whether to show progress; False if the caller shows its own.
        on_epoch: callback after each epoch, in order. A resumed run also reports the epochs before the interruption.
        unfinished: file that keeps the state of the run after each epoch; the caller removes it. None keeps no state.
        resume: whether to resume the run in `unfinished`.

    Raises:
        InputError: the training split has only one phase.
        ConfigError: the loss became NaN, or there are more devices than training tracks.
        CheckpointError: there is no run to resume, or it had other data or settings.
        ReentryError: a training process died.
        Ended: a signal requested shutdown.
    """
    train, validation = split(samples, config.validation_share, config.seed)
    if config.devices > len(train):
        raise ConfigError(
            "fewer tracks than devices", expected=f"at most {len(train)} devices", got=str(config.devices)
        )
    run = None
    if unfinished:
        run = UnfinishedRun.of(unfinished, fingerprint=fingerprint, model_config=model_config, config=config)
        if resume:
            run.check()
    task = TrainingTask(
        train=train,
        validation=validation,
        model_config=model_config,
        config=config,
        unfinished=run,
        resume=resume,
    )
    statistics = Statistics.of(train, STATISTICS_STEPS)
    with (
        torch.random.fork_rng(),
        quiet_lightning(),
        _interrupt_kept(),
        progress("training", config.epochs, "epochs") if show_progress else nullcontext() as advance,
        in_processes(task) as worker,
    ):

        def report(epoch: int, figures: dict[str, float]) -> None:
            if advance:
                advance(1)
            if on_epoch:
                on_epoch(epoch, figures)

        training = run_epochs(task, worker, statistics=statistics, on_epoch=report)
    if not training.best:
        raise ConfigError(
            "training diverged: the loss is NaN",
            got=f"learning rate {config.learning_rate}",
            fix="use a lower learning rate",
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
        reference=reference_of(train, used=model_config.features, orbit_prior=model.orbit_prior()),
    )
    return Trained(
        checkpoint=checkpoint,
        train=train,
        validation=validation,
        history=training.history,
        best_epoch=training.best_epoch,
    )


@contextmanager
def _interrupt_kept() -> Iterator[None]:
    """Raise `Ended` on a signal; Lightning would turn it into an exit with status 1."""
    with ended_by_signals():
        try:
            yield
        except SystemExit as error:
            if isinstance(error.__context__, KeyboardInterrupt):
                raise error.__context__ from None
            raise
