"""The checkpoint: a trained network and all that is needed to use it, trace it and evaluate it again."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch

from reentry.decision import DecisionConfig
from reentry.errors import CheckpointError, ConfigError
from reentry.files import whole_file
from reentry.monitoring import Reference
from reentry.schema import FEATURES, SCHEMA_VERSION
from training.config import ModelConfig, TrainConfig
from training.model import ReentryNetwork, network

VALIDATION_NAME: Final = "validation.parquet"
"""Beside a checkpoint: the tracks that its training held out, which an export is verified on."""

_KIND: Final = "reentry checkpoint"
_RETRAIN: Final = "train again with `reentry train`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What `reentry train` leaves behind."""

    model: ReentryNetwork
    """In evaluation mode, on the CPU."""
    train_config: TrainConfig
    """How it was trained."""
    decision: DecisionConfig
    """The thresholds its figures were measured with."""
    data_fingerprint: str
    """Of the labelled tracks, those held out among them; see `tracks_fingerprint`."""
    git_revision: str
    """Of the program, "unknown" outside a repository; "-dirty" follows where files had changed."""
    metrics: dict[str, float]
    """Of the validation split."""
    validation_tracks: tuple[int, ...]
    """Track ids held out from training."""
    data_file_fingerprint: str = ""
    """Of the file they were in, see `fingerprint`; empty where there was none, or before it was kept."""
    trained_flights: frozenset[str] = frozenset()
    """`flight_fingerprint` of each track of the training split; empty in checkpoints of before it was kept."""
    trained_rows: torch.Tensor | None = None
    """`copies.sketches` of the tracks of the training split; None in checkpoints of before they were kept."""
    reference: Reference | None = None
    """The training split, for drift to be measured against; None in checkpoints of before there was one."""
    schema_version: int = SCHEMA_VERSION

    @property
    def model_config(self) -> ModelConfig:
        """The network's shape."""
        return self.model.config

    @property
    def seed(self) -> int:
        """Of the training."""
        return self.train_config.seed


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; `path` appears when it is whole."""
    content = {
        "kind": _KIND,
        "schema_version": checkpoint.schema_version,
        "features": list(FEATURES),
        "model_config": asdict(checkpoint.model_config),
        "train_config": asdict(checkpoint.train_config),
        "decision": asdict(checkpoint.decision),
        "data_fingerprint": checkpoint.data_fingerprint,
        "git_revision": checkpoint.git_revision,
        "metrics": checkpoint.metrics,
        "validation_tracks": list(checkpoint.validation_tracks),
        "data_file_fingerprint": checkpoint.data_file_fingerprint,
        "trained_flights": sorted(checkpoint.trained_flights),
        "trained_rows": checkpoint.trained_rows,
        "reference": checkpoint.reference.as_dict() if checkpoint.reference else None,
        "weights": {name: value.cpu() for name, value in checkpoint.model.state_dict().items()},
    }
    with whole_file(path) as part:
        torch.save(content, part)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; only tensors and plain values are unpickled, so a file of a stranger runs no code.

    Raises:
        CheckpointError: no such file, not a checkpoint, or one of another schema version or other features.
    """
    content = _read(path)
    version, features = content["schema_version"], tuple(content["features"])
    if version != SCHEMA_VERSION:
        raise CheckpointError(
            "checkpoint of another schema version",
            where=str(path),
            expected=str(SCHEMA_VERSION),
            got=str(version),
            fix=_RETRAIN,
        )
    if features != FEATURES:
        raise CheckpointError(
            "checkpoint of other features",
            where=str(path),
            expected=", ".join(FEATURES),
            got=", ".join(features),
            fix=_RETRAIN,
        )
    reference = content.get("reference")
    try:
        model = network(ModelConfig(**content["model_config"]))
        model.load_state_dict(content["weights"])
        return Checkpoint(
            model=model.eval(),
            train_config=TrainConfig(**content["train_config"]),
            decision=DecisionConfig(**content["decision"]),
            data_fingerprint=content["data_fingerprint"],
            git_revision=content["git_revision"],
            metrics=content["metrics"],
            validation_tracks=tuple(content["validation_tracks"]),
            data_file_fingerprint=content.get("data_file_fingerprint", ""),
            trained_flights=frozenset(content.get("trained_flights", ())),
            trained_rows=content.get("trained_rows"),
            reference=Reference.from_dict(reference) if reference else None,
            schema_version=version,
        )
    except (KeyError, TypeError, RuntimeError, ConfigError, CheckpointError) as error:
        raise CheckpointError(f"broken checkpoint: {error}", where=str(path), fix=_RETRAIN) from error


def _read(path: Path) -> dict[str, Any]:
    fix = "give the model.ckpt that `reentry train` wrote"
    if not path.is_file():
        raise CheckpointError("no such file", where=str(path), fix=fix)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols, in files that are none of ours
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the unpickler meets in a file of any kind
        raise CheckpointError("not a checkpoint", where=str(path), fix=fix) from error
    if not isinstance(content, dict) or content.get("kind") != _KIND:
        raise CheckpointError("not a checkpoint of this program", where=str(path), fix=fix)
    if "schema_version" not in content or "features" not in content:
        raise CheckpointError("broken checkpoint: without schema", where=str(path), fix=_RETRAIN)
    return content
