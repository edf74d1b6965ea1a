"""A checkpoint into the model repository: each format built, verified, installed as a version of its own, labelled."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from export import builders
from export.card import write_card
from export.config import ExportConfig
from export.gate import Verification, verify
from export.signature import check_signature
from reentry.decision import DecisionConfig
from reentry.drift import REFERENCE_FILE
from reentry.errors import ExportError, InputError, ReentryError, RepositoryError
from reentry.simulation import simulate_file
from reentry.tracks import read_tracks, tracks_fingerprint
from registry.formats import FORMATS, Format
from registry.labels import Record
from registry.manifest import MANIFEST_FILE, Manifest
from registry.promotion import Promotion, label_exported
from registry.store import VersionStore, file_entries, next_version, open_store, sha256_of
from training.checkpoint import VALIDATION_NAME, Checkpoint, load_checkpoint
from training.data.samples import Sample, samples_of
from training.fit.threads import one_thread

_ATTEMPTS: Final = 10
_SIMULATED_TRACKS: Final = 20
_SIMULATED_SEED: Final = 97


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """One format: the version it became, or why it became none."""

    format: Format
    seconds: float
    version: int | None = None
    place: str | None = None
    size: int | None = None
    """Bytes of both graphs."""
    verification: Verification | None = None
    left_out: str | None = None
    """What this machine lacks for it."""
    error: str | None = None
    """Which check it failed, or what else went wrong."""

    def summary(self) -> str:
        """One line for a person."""
        if self.left_out is not None:
            return f"{self.format}: left out: {self.left_out}"
        found = self.verification
        if found is None:
            return f"{self.format}: not installed: {self.error}"
        stepped = "" if found.stepped_onset_moved is None else f", {found.stepped_onset_moved} step by step"
        return (
            f"{self.format}: installed version {self.version} in {self.place}: {self.size:,} bytes; {found.cases} "
            f"cases within {found.max_difference:.1e} of PyTorch, steps within {found.step_difference:.1e} of whole "
            f"tracks; on {found.tracks} tracks {found.phase_share:.3%} of the phases differ, onsets by "
            f"{found.onset_moved} steps at most{stepped}; {self.seconds:.1f} s"
        )

    def as_dict(self) -> dict[str, Any]:
        """The same for a script."""
        content = asdict(replace(self, verification=None))
        content["verification"] = self.verification.as_dict() if self.verification else None
        content["metrics"] = self.verification.metrics if self.verification else None
        return content


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What came of a checkpoint."""

    formats: tuple[Exported, ...]
    promotion: Promotion | None
    refusal: str | None
    """Why a version that was to be promoted was not, and that it is installed."""
    card: Path | None
    """The model card, where a version was installed."""
    candidate: int | None = None
    """The version that this export made the candidate; None if it is in production, or no version was labelled."""
    production: int | None = None
    """The version in production after the export."""

    @property
    def complete(self) -> bool:
        """Whether every format that was not left out became a version, and a promotion that was due happened."""
        return self.refusal is None and all(exported.error is None for exported in self.formats)


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """The labelled tracks that every format is held to."""

    samples: Sequence[Sample]
    source: str
    """In words, for the manifest."""


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


def validation_of(config: ExportConfig, checkpoint: Checkpoint) -> Validation:
    """The tracks that the training held out, from wherever they are at hand; simulated flights, where they are not.

    Raises:
        TrackFileError, InputError: the named tracks cannot be used, or those beside the checkpoint are not its own.
    """
    kept = config.checkpoint.with_name(VALIDATION_NAME)
    if config.data is not None:
        samples = _labelled(config.data)
        if tracks_fingerprint(sample.track for sample in samples) != checkpoint.data_fingerprint:
            return Validation(samples=samples, source=f"all {len(samples)} tracks of {config.data.name}")
        held_out = set(checkpoint.validation_tracks)
        samples = [sample for sample in samples if sample.track.track_id in held_out]
        return Validation(samples=samples, source=f"the {len(samples)} tracks held out of {config.data.name}")
    if kept.is_file():
        samples = _labelled(kept)
        if {sample.track.track_id for sample in samples} != set(checkpoint.validation_tracks):
            raise InputError(
                f"not the tracks that the training of {config.checkpoint.name} held out",
                where=str(kept),
                fix="name labelled tracks with --data, or remove the file to verify on simulated flights",
            )
        return Validation(samples=samples, source=f"the {len(samples)} tracks that the training held out")
    with tempfile.TemporaryDirectory(prefix="reentry-export-") as folder:
        flights = Path(folder) / "flights.parquet"
        simulate_file(flights, tracks=_SIMULATED_TRACKS, seed=_SIMULATED_SEED)
        return Validation(samples=_labelled(flights), source=f"{_SIMULATED_TRACKS} simulated flights")


def _labelled(path: Path) -> list[Sample]:
    with read_tracks(path, labelled=True) as file:
        return samples_of(list(file), where=str(path))


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
            "fingerprint": tracks_fingerprint(sample.track for sample in validation.samples),
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
