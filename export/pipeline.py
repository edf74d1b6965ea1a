"""A checkpoint into the model repository: each format built, verified, installed as a version of its own, labelled."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from export import builders
from export.card import write_card
from export.config import ExportConfig
from export.gate import Verification, verify
from export.results import Export, Exported
from export.signature import check_signature
from export.validation import Validation, validation_of
from reentry.decision import DecisionConfig
from reentry.drift import REFERENCE_FILE
from reentry.errors import ExportError, ReentryError, RepositoryError
from registry.formats import FORMATS, Format
from registry.labels import Record
from registry.manifest import MANIFEST_FILE, Manifest
from registry.open import open_store
from registry.promotion import Promotion, label_exported
from registry.store import VersionStore, file_entries, next_version, sha256_of
from training.checkpoint import Checkpoint, load_checkpoint
from training.data.identity import DataIdentity
from training.fit.threads import one_thread

_ATTEMPTS: Final = 10


def export_checkpoint(config: ExportConfig, tell: Callable[[Exported], None] | None = None) -> Export:
    """Build, verify and install each format in turn; `tell` hears of each as it is done.

    A format that cannot be made or fails its gate leaves the others as they are.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        TrackFileError, InputError: the tracks to verify with cannot be used.
        RepositoryError: the repository is none.
        ExportError: the thresholds are not those served.
    """
    checkpoint = load_checkpoint(config.checkpoint)
    _require_served_decision(config.checkpoint, checkpoint.decision)
    store = open_store(config.repository)
    validation = validation_of(config, checkpoint)
    done = []
    for name in config.formats:
        with one_thread():
            done.append(_export(name, config, checkpoint, store, validation))
        if tell is not None:
            tell(done[-1])
    versions = [exported.version for exported in done if exported.version is not None]
    if not versions:
        return Export(formats=tuple(done), promotion=None, refusal=None, card=None)
    promotion, refusal = _labelled_as_due(store, versions, config)
    card = write_card(config.checkpoint, checkpoint, done, validation.source)
    labels = Record.of(store).labels
    return Export(
        formats=tuple(done),
        promotion=promotion,
        refusal=refusal,
        card=card,
        candidate=labels.candidate if labels.candidate in versions else None,
        production=labels.production,
    )


def _labelled_as_due(
    store: VersionStore, versions: Sequence[int], config: ExportConfig
) -> tuple[Promotion | None, str | None]:
    """The promotion, or what stands against one: the versions are installed all the same, and have to be told."""
    try:
        promotion = label_exported(store, versions, promote_it=config.promote, reason=config.reason)
    except RepositoryError as error:
        return None, str(error)
    if promotion is None and config.promote:
        return None, "nothing is promoted: no format among these is served; fix: add --format onnx"
    return promotion, None


def _export(
    name: Format, config: ExportConfig, checkpoint: Checkpoint, store: VersionStore, validation: Validation
) -> Exported:
    started = time.monotonic()
    lacks = builders.missing(name)
    if lacks is not None:
        if config.skip_missing:
            return Exported(format=name, seconds=0.0, left_out=lacks)
        return Exported(format=name, seconds=0.0, error=lacks)
    try:
        installed = _installed(name, config, checkpoint, store, validation)
    except ReentryError as error:
        return Exported(format=name, seconds=time.monotonic() - started, error=str(error))
    except OSError as error:  # of the folder in which the format is made
        reason = f"cannot be written: {error.strerror or error}; fix: make room, or name another folder with TMPDIR"
        return Exported(format=name, seconds=time.monotonic() - started, error=f"{tempfile.gettempdir()}: {reason}")
    return replace(installed, seconds=time.monotonic() - started)


def _installed(
    name: Format, config: ExportConfig, checkpoint: Checkpoint, store: VersionStore, validation: Validation
) -> Exported:
    spec = FORMATS[name]
    for _ in range(_ATTEMPTS):
        version = next_version(store)
        # The runner's files must not go before it does.
        with ExitStack() as scratch:
            folder = Path(scratch.enter_context(tempfile.TemporaryDirectory(prefix="reentry-export-")))
            runner = builders.build(name, checkpoint, version, folder, config.tensorrt)
            whole, step = folder / spec.whole_file, folder / spec.step_file
            if spec.whole_file.endswith(".onnx"):
                check_signature(whole, step, checkpoint.model_config)
            verification = verify(
                runner,
                checkpoint.model,
                version=version,
                tolerance=spec.tolerance,
                decision=checkpoint.decision,
                validation=validation.samples,
                batches=config.batches,
                lengths=config.lengths,
            )
            if checkpoint.reference is not None:
                (folder / REFERENCE_FILE).write_text(json.dumps(checkpoint.reference.as_dict(), indent=2) + "\n")
            manifest = _manifest(name, config, checkpoint, version, verification, validation, folder)
            (folder / MANIFEST_FILE).write_text(manifest.to_json())
            size = whole.stat().st_size + step.stat().st_size
            try:
                place = store.install(folder, version)
            except FileExistsError:  # another export took this number
                continue
        return Exported(format=name, seconds=0.0, version=version, place=place, size=size, verification=verification)
    raise ExportError(f"no free version number after {_ATTEMPTS} attempts", where=store.location, fix="export again")


def _manifest(
    name: Format,
    config: ExportConfig,
    checkpoint: Checkpoint,
    version: int,
    verification: Verification,
    validation: Validation,
    folder: Path,
) -> Manifest:
    spec = FORMATS[name]
    parameters = sum(weight.numel() for weight in checkpoint.model.parameters())
    return Manifest(
        version=version,
        format=name,
        precision="fp16" if name is Format.TENSORRT and config.tensorrt.fp16 else spec.precision,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        checkpoint_sha256=sha256_of(config.checkpoint),
        schema_version=checkpoint.schema_version,
        data_fingerprint=checkpoint.data_fingerprint,
        git_revision=checkpoint.git_revision,
        seed=checkpoint.seed,
        model=asdict(checkpoint.model_config) | {"parameters": parameters},
        metrics=verification.metrics,
        verification={
            **verification.as_dict(),
            "data": validation.source,
            "fingerprint": DataIdentity.of(s.track for s in validation.samples).tracks_fingerprint,
            "tolerance": asdict(spec.tolerance),
            "batches": list(config.batches),
            "lengths": list(config.lengths),
        },
        files=file_entries(folder),
    )


def _require_served_decision(path: Path, decision: DecisionConfig) -> None:
    """The thresholds are of the served program, not of the graph: others would give other phases than were measured."""
    served = DecisionConfig()
    if decision != served:
        raise ExportError(
            "the checkpoint's figures are of other decision thresholds than the served ones",
            where=str(path),
            expected=f"enter {served.enter:g}, leave {served.leave:g}",
            got=f"enter {decision.enter:g}, leave {decision.leave:g}",
            fix="train again with `reentry train`",
        )
