"""Checkpoints: a trained network with its settings, data fingerprints and metrics."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Final

import torch

from reentry.decision import DecisionConfig
from reentry.drift import Reference
from reentry.errors import CheckpointError
from reentry.runtime.arguments import require_file
from reentry.runtime.config_file import check_table, declared_types
from reentry.runtime.files import whole_file
from reentry.schema import FEATURES, SCHEMA_VERSION
from training.config import ModelConfig, TrainConfig
from training.models.networks import ReentryNetwork, network

VALIDATION_NAME: Final = "validation.parquet"
"""Name of the file beside a checkpoint that has the validation tracks; an export is verified on them."""

_KIND: Final = "reentry checkpoint"
_RETRAIN: Final = "train again with `reentry train`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Result of `reentry train`, as stored in model.ckpt."""

    model: ReentryNetwork
    """Trained network in evaluation mode, on the CPU."""
    train_config: TrainConfig
    """Settings of the training."""
    decision: DecisionConfig
    """Decision thresholds with which `metrics` were computed."""
    data_fingerprint: str
    """Fingerprint of all labelled tracks, training and validation; see `training.data.identity`."""
    git_revision: str
    """Git commit of the program that trained it, see `reentry.runtime.revision.git_revision`."""
    metrics: dict[str, float]
    """Metrics on the validation split."""
    validation_tracks: tuple[int, ...]
    """Ids of the tracks in the validation split."""
    data_file_fingerprint: str = ""
    """Fingerprint of the training file; empty if there was no file, and in old checkpoints."""
    data_table: dict[str, str | int] | None = None
    """Name, version and id of the table that was read; None if there was no table, and in old checkpoints."""
    trained_flights: frozenset[str] = frozenset()
    """Flight fingerprints of the training split; empty in old checkpoints."""
    trained_rows: torch.Tensor | None = None
    """(K, S) int32, sketches of the K tracks in the training split; None in old checkpoints."""
    reference: Reference | None = None
    """Distributions of the training split, with which serving measures drift; None in old checkpoints."""
    schema_version: int = SCHEMA_VERSION

    @property
    def model_config(self) -> ModelConfig:
        """Settings of the network."""
        return self.model.config

    @property
    def seed(self) -> int:
        """Random seed of the training."""
        return self.train_config.seed


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; `path` appears only when the file is complete."""
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
        "data_table": checkpoint.data_table,
        "trained_flights": sorted(checkpoint.trained_flights),
        "trained_rows": checkpoint.trained_rows,
        "reference": checkpoint.reference.as_dict() if checkpoint.reference else None,
        "weights": {name: value.cpu() for name, value in checkpoint.model.state_dict().items()},
    }
    # torch.save would write the name of a path, which is random here, into the file; so equal content has equal bytes.
    with whole_file(path) as part, part.open("wb") as file:
        torch.save(content, file)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint. Only tensors and plain values are unpickled, so an untrusted file cannot run code.

    Raises:
        CheckpointError: the file is missing or not a checkpoint, or has another schema version or other features.
    """
    content = _read(path)
    version, features = content["schema_version"], content["features"]
    features = tuple(features) if isinstance(features, list | tuple) else (features,)
    if version != SCHEMA_VERSION:
        raise CheckpointError(
            "checkpoint has another schema version",
            where=str(path),
            expected=str(SCHEMA_VERSION),
            got=str(version),
            fix=_RETRAIN,
        )
    if features != FEATURES:
        raise CheckpointError(
            "checkpoint has other features",
            where=str(path),
            expected=", ".join(FEATURES),
            got=", ".join(map(str, features)),
            fix=_RETRAIN,
        )
    reference = content.get("reference")
    try:
        _check_types(content)
        return Checkpoint(
            model=_network(content),
            train_config=TrainConfig(**content["train_config"]),
            decision=DecisionConfig(**content["decision"]),
            data_fingerprint=content["data_fingerprint"],
            git_revision=content["git_revision"],
            metrics=content["metrics"],
            validation_tracks=tuple(content["validation_tracks"]),
            data_file_fingerprint=content.get("data_file_fingerprint", ""),
            data_table=content.get("data_table"),
            trained_flights=frozenset(content.get("trained_flights", ())),
            trained_rows=content.get("trained_rows"),
            reference=Reference.from_dict(reference) if reference else None,
            schema_version=version,
        )
    except Exception as error:  # arbitrary entries can raise any exception
        raise CheckpointError(f"broken checkpoint: {error}", where=str(path), fix=_RETRAIN) from error


def _network(content: dict[str, Any]) -> ReentryNetwork:
    """Build the network of a checkpoint in evaluation mode.

    Raises:
        ValueError: a weight is missing, has the wrong shape, or is NaN or infinite, or a feature index is out of range.
    """
    config, weights = ModelConfig(**content["model_config"]), content["weights"]
    with torch.device("meta"):  # compare the shapes before allocating the network
        shapes = {name: value.shape for name, value in network(config).state_dict().items()}
    for name, shape in shapes.items():
        if name not in weights or weights[name].shape != shape:
            got = tuple(weights[name].shape) if name in weights else "none"
            raise ValueError(f"weights {name}; expected shape {tuple(shape)}; got {got}")
        if not weights[name].isfinite().all():
            raise ValueError(f"weights {name} are NaN or infinite")
    for name in ("chosen", "shares"):
        if not torch.isin(weights[name], torch.arange(len(FEATURES))).all():
            raise ValueError(f"{name} has indices of unknown features")
    model = network(config)
    model.load_state_dict(weights)
    return model.eval()


def _check_types(content: dict[str, Any]) -> None:
    """Check that the entries of a checkpoint have the types that `Checkpoint` declares.

    Raises:
        ValueError: an entry has another type.
    """
    rows = content.get("trained_rows")
    has_type = {
        "metrics": _is_mapping_to(content["metrics"], int | float),
        "weights": _is_mapping_to(content["weights"], torch.Tensor),
        "validation_tracks": _is_list_of(content["validation_tracks"], int),
        "trained_flights": _is_list_of(content.get("trained_flights", ()), str),
        "trained_rows": rows is None
        or (isinstance(rows, torch.Tensor) and rows.dtype == torch.int32 and rows.ndim == 2),
        "data_fingerprint": isinstance(content["data_fingerprint"], str),
        "data_file_fingerprint": isinstance(content.get("data_file_fingerprint", ""), str),
        "data_table": content.get("data_table") is None or _is_mapping_to(content["data_table"], str | int),
        "git_revision": isinstance(content["git_revision"], str),
    }
    wrong = [name for name, valid in has_type.items() if not valid]
    if wrong:
        raise ValueError(f"wrong type of {', '.join(wrong)}")
    for name, kind in (("model_config", ModelConfig), ("train_config", TrainConfig), ("decision", DecisionConfig)):
        table = {key: list(value) if isinstance(value, tuple) else value for key, value in content[name].items()}
        check_table(name, table, declared_types(kind))


def _is_mapping_to(value: object, kind: type | UnionType) -> bool:
    return isinstance(value, dict) and all(isinstance(k, str) and isinstance(v, kind) for k, v in value.items())


def _is_list_of(value: object, kind: type) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, kind) for item in value)


def _read(path: Path) -> dict[str, Any]:
    fix = "give the model.ckpt that `reentry train` wrote"
    require_file(path, error=CheckpointError, fix=fix)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle protocols of foreign files
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # an arbitrary file can make the unpickler raise any exception
        raise CheckpointError("not a checkpoint", where=str(path), fix=fix) from error
    if not isinstance(content, dict) or content.get("kind") != _KIND:
        raise CheckpointError("not a checkpoint of this program", where=str(path), fix=fix)
    if "schema_version" not in content or "features" not in content:
        raise CheckpointError(
            "broken checkpoint: the schema version or the features are missing", where=str(path), fix=_RETRAIN
        )
    return content
