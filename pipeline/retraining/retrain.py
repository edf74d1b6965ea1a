"""Retraining: train on the newest version of the table of features, compare with production, export, promote.

    features@N -> train -> baselines beside the run -> gate -> export -> promotion -> verdict
                                                        |
                                           the version in production

Every step may be repeated. A training of the same version gives the same checkpoint, and its verdict is recorded once.
The verdict is recorded last, because `pipeline.retraining.due` takes it for a retraining that is complete. After an
interruption, or an export that failed, the retraining is therefore still due.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from export.config import ExportConfig
from export.pipeline import export_checkpoint
from pipeline.features.training_data import LakeTrainingData
from pipeline.lake.lake import Lake
from pipeline.lake.reference import TableReference
from pipeline.lake.tables import FEATURES_TABLE
from pipeline.retraining.aliases import mirror_labels
from pipeline.retraining.baselines import baseline_metrics
from pipeline.retraining.contestants import Contestant, checkpoint_contestant, version_contestant
from pipeline.retraining.due import why_not_due
from pipeline.retraining.gate import GateResult, require_held_out, run_gate
from pipeline.retraining.reason import Reason
from pipeline.retraining.verdict import GateVerdict
from pipeline.retraining.verdicts import RETRAIN, record_verdict
from pipeline.settings import PipelineSettings
from reentry.errors import ExportError, RepositoryError
from registry.labels import Record
from registry.open import open_store
from registry.promotion import promote
from registry.store import VersionStore
from training.config import ModelConfig, TrainConfig, read_configs
from training.runs.recorder import record_training, recording, training_parameters
from training.train import TrainReport, train_tracks

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainConfig:
    """Settings of one retraining."""

    reason: Reason
    repository: str
    """Model repository whose version in production is the champion."""
    out: Path
    """Folder of the new checkpoint."""
    training: Path | None = None
    """TOML file with [model] and [train] settings; None for those of the checkpoint in production."""
    if_due: bool = False
    """Do nothing unless a retraining is due, see `pipeline.retraining.due`."""
    export: bool = False
    """Install the checkpoint as a version, unless the gate refuses it."""
    promote: bool = False
    """Also promote that version, if the gate allows it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainReport:
    """Result of a retraining."""

    not_due: str | None = None
    """Why there was no training; None if there was one."""
    trained: TrainReport | None = None
    gate: GateResult | None = None
    """Comparison with production; None if no version is in production."""
    version: int | None = None
    """Version that was installed."""
    promoted: bool = False

    @property
    def refused(self) -> bool:
        """Whether the gate found the new model worse."""
        return self.gate is not None and self.gate.verdict is GateVerdict.WORSE

    def summary(self) -> str:
        """Summary in a few lines of text."""
        if self.trained is None:
            return f"not due: {self.not_due}"
        lines = [self.trained.summary(), "no version is in production to compare with"]
        if self.gate is not None:
            lines[1] = self.gate.summary()
        if self.version is not None:
            lines.append(f"version {self.version} is {'in production' if self.promoted else 'the candidate'}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Content for `--json`."""
        return {
            "not_due": self.not_due,
            "trained": self.trained.as_dict() if self.trained is not None else None,
            "gate": self.gate.as_dict() if self.gate is not None else None,
            "refused": self.refused,
            "version": self.version,
            "promoted": self.promoted,
        }


def retrain(config: RetrainConfig, settings: PipelineSettings) -> RetrainReport:
    """Train on the newest tracks and judge the new model.

    The verdict is recorded after the last step that was requested, or at once if it refuses the model. An error before
    that leaves the retraining due.

    Raises:
        LakeError: The table of features does not exist, or the store is unavailable.
        InputError: The tracks are too few, or the settings are invalid.
        RepositoryError: The location is not a model repository, its version in production cannot be scored, or another
            version went into production in the meantime.
        ExportError: A requested export failed.
    """
    lake, store = Lake(settings.lake), open_store(config.repository)
    if config.if_due and (not_due := why_not_due(lake, config.reason, settings)) is not None:
        return RetrainReport(not_due=not_due)
    production = Record.of(store).labels.production
    champion = version_contestant(store, production) if production is not None else None
    data = LakeTrainingData.of(lake, TableReference(FEATURES_TABLE.name))
    if champion is not None:
        require_held_out(data)  # the gate would refuse fewer tracks only after the training
    trained = _train(config, data, champion)
    result = None
    if champion is not None:
        result = run_gate(
            checkpoint_contestant(trained.checkpoint),
            champion,
            lake,
            table=TableReference(FEATURES_TABLE.name, data.version),
            reason=config.reason,
            settings=settings,
        )
    report = RetrainReport(trained=trained, gate=result)
    if not report.refused and (config.export or config.promote):
        report = _install(config, store, report, compared=production)
    if result is not None:
        record_verdict(lake, result, command=RETRAIN)
    return report


def _train(config: RetrainConfig, data: LakeTrainingData, champion: Contestant | None) -> TrainReport:
    """Train, and record the run with its baselines."""
    model, train = _settings(config.training, champion)
    parameters = training_parameters(data, model, train) | {"retrain.reason": config.reason}
    with recording(True, parameters) as recorder:
        trained = train_tracks(data, config.out, model, train, on_epoch=recorder.epoch)
        record_training(recorder, trained)
        recorder.metrics(baseline_metrics(data, model, train))
    return trained


def _settings(path: Path | None, champion: Contestant | None) -> tuple[ModelConfig, TrainConfig]:
    if path is None and champion is not None and champion.checkpoint is not None:
        return champion.checkpoint.model_config, champion.checkpoint.train_config
    return read_configs(path, model={}, train={})


def _install(
    config: RetrainConfig, store: VersionStore, report: RetrainReport, *, compared: int | None
) -> RetrainReport:
    """Export the new checkpoint, and promote it if that is requested and allowed.

    Raises:
        ExportError: The export failed.
        RepositoryError: The version in production is no longer `compared`.
    """
    assert report.trained is not None
    trained, result = report.trained, report.gate
    version = _export(config, store, trained.checkpoint)
    try:
        if config.promote and result is not None and result.allowed:
            _require_production(store, compared)
            reason = f"gate: {result.verdict} on {result.table}, retrained for {config.reason}"
            promote(store, version, reason=f"{reason}; warning: {result.note}" if result.note else reason)
    finally:
        mirror_labels(store)
    promoted = Record.of(store).labels.production == version
    return replace(report, version=version, promoted=promoted)


def _require_production(store: VersionStore, compared: int | None) -> None:
    """Require that the version in production is still the one that the new model was compared with.

    Raises:
        RepositoryError: Another version is in production.
    """
    production = Record.of(store).labels.production
    if production != compared:
        raise RepositoryError(
            "another version went into production during the retraining",
            where=store.location,
            expected=f"version {compared}",
            got=f"version {production}",
            fix="run the command again, or compare the candidate with the new version: reentry gate candidate",
        )


def _export(config: RetrainConfig, store: VersionStore, checkpoint: Path) -> int:
    """Install a checkpoint as the candidate; return its version.

    Raises:
        ExportError: The export gate refused it.
    """
    result = export_checkpoint(ExportConfig(checkpoint=checkpoint, repository=config.repository)).formats[0]
    if result.version is None:
        raise ExportError(result.error or "the checkpoint was not exported", where=store.location)
    return result.version
