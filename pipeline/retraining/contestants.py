"""The two models of a comparison: a checkpoint, or a version of a model repository.

A version is scored by ONNX Runtime with the graph that Triton serves, and a checkpoint by PyTorch. The export gate has
shown that both give the same phases and onsets.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from export.sessions import OnnxSession
from reentry.errors import CheckpointError, RepositoryError
from reentry.features.groups import groups_of
from reentry.runtime.arguments import require_file
from reentry.runtime.files import sha256_of
from reentry.schema import FEATURES
from registry.formats import FORMATS, Format
from registry.inventory import numbered
from registry.labels import Record
from registry.open import open_store
from registry.store import VersionStore, manifest_of
from training.checkpoint import Checkpoint, load_checkpoint
from training.data.samples import Sample
from training.evaluation.metrics import Prediction
from training.evaluation.predictions import predict
from training.runs.checkpoints import fetch_checkpoint
from training.train import CHECKPOINT_NAME

_log = logging.getLogger(__name__)

_CHECKPOINT_SUFFIX: Final = ".ckpt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """A model that can score labelled tracks."""

    name: str
    """Name for people and for the table of verdicts, such as "version 3"."""
    checkpoint_sha256: str
    """SHA-256 of the checkpoint that the model was made from."""
    groups: frozenset[str]
    """Groups of features that it needs, see `track_features`."""
    predict: Callable[[Sequence[Sample]], list[Prediction]]
    checkpoint: Checkpoint | None
    """The checkpoint, which records the tracks that trained it; None if no run has recorded it."""


def open_contestant(name: str, repository: str) -> Contestant:
    """Open a model.

    Args:
        name: Path of a checkpoint, which ends with .ckpt, or a version: a number, `candidate` or `production`.
        repository: Model repository of a version.

    Raises:
        CheckpointError: The file is not a checkpoint.
        RepositoryError: There is no such version, or ONNX Runtime cannot run it.
    """
    if name.endswith(_CHECKPOINT_SUFFIX):
        return checkpoint_contestant(Path(name))
    store = open_store(repository)
    return version_contestant(store, numbered(store, Record.of(store).labels, name))


def checkpoint_contestant(path: Path) -> Contestant:
    """Open a checkpoint.

    Raises:
        CheckpointError: The file is not a checkpoint.
    """
    require_file(path, error=CheckpointError, fix="give the model.ckpt that `reentry train` wrote")
    checkpoint = load_checkpoint(path)
    return Contestant(
        name=str(path),
        checkpoint_sha256=sha256_of(path),
        groups=checkpoint.model_config.groups,
        predict=partial(predict, checkpoint.model),
        checkpoint=checkpoint,
    )


def version_contestant(store: VersionStore, number: int) -> Contestant:
    """Open a version of a model repository.

    Raises:
        RepositoryError: There is no such version, or ONNX Runtime cannot run it.
    """
    manifest = manifest_of(store, number)
    spec = FORMATS[manifest.format]
    if spec.suffix != FORMATS[Format.ONNX].suffix:
        raise RepositoryError(
            f"a version of the format {spec.format} cannot be scored here",
            where=store.place(number),
            expected="a version that ONNX Runtime runs",
            fix="give the checkpoint of the version, or export it with --format onnx",
        )
    with tempfile.TemporaryDirectory(prefix="reentry-gate-") as scratch:
        folder = Path(scratch) / "version"
        store.fetch(number, folder)
        session = OnnxSession(folder / spec.whole_file, folder / spec.step_file)
        recorded = fetch_checkpoint(manifest.checkpoint_sha256, CHECKPOINT_NAME, Path(scratch))
        checkpoint = load_checkpoint(recorded) if recorded is not None else None
    if checkpoint is None:
        _log.warning(
            f"version {number}: no recorded run has its checkpoint, so tracks that trained it cannot be recognised"
        )
    return Contestant(
        name=f"version {number}",
        checkpoint_sha256=manifest.checkpoint_sha256,
        groups=groups_of(manifest.model.get("features", FEATURES)),
        predict=partial(_predict, session),
        checkpoint=checkpoint,
    )


def _predict(session: OnnxSession, samples: Sequence[Sample]) -> list[Prediction]:
    return [
        Prediction(track=sample.track, probability=np.asarray(session.whole(sample.features.numpy()[None])[0][0]))
        for sample in samples
    ]
