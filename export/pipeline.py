"""Exports a checkpoint into the model repository: builds, verifies and installs each format, then labels versions."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from export import builders
from export.config import ExportConfig
from export.gate import Verification, verify
from export.results import ExportResult, FormatResult, write_card
from export.signature import check_signature
from export.validation import Validation, validation_of
from reentry.decision import DecisionConfig
from reentry.drift import REFERENCE_FILE
from reentry.errors import ExportError, ReentryError, RepositoryError
from reentry.runtime.files import sha256_of
from reentry.schema import REENTRY_LSTM, REENTRY_STEP
from registry.formats import FORMATS, Format
from registry.labels import Record
from registry.manifest import MANIFEST_FILE, Manifest
from registry.open import open_store
from registry.promotion import Promotion, label_exported
from registry.store import VersionStore, file_entries, next_version
from training.checkpoint import Checkpoint, load_checkpoint
from training.data.identity import DataIdentity
from training.fit.threads import one_thread

_ATTEMPTS: Final = 10


def export_checkpoint(config: ExportConfig, on_result: Callable[[FormatResult], None] | None = None) -> ExportResult:
    """Build, verify and install each format in turn.

    A format that cannot be built, or fails the gate, does not stop the others.

    Args:
        config: settings of the export.
        on_result: called with the result of each format as soon as it is known.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        TrackFileError, InputError: the validation tracks cannot be used.
        RepositoryError: the location is not a model repository.
        ExportError: the decision thresholds of the checkpoint differ from the served ones.
    """
    checkpoint = load_checkpoint(config.checkpoint)
    _require_served_decision(config.checkpoint, checkpoint.decision)
    store = open_store(config.repository)
    exporter = _Exporter(config, checkpoint, store, validation_of(config, checkpoint))
    results = []
    for export_format in config.formats:
        with one_thread():
            results.append(exporter.export(export_format))
        if on_result is not None:
            on_result(results[-1])
    versions = [result.version for result in results if result.version is not None]
    if not versions:
        return ExportResult(formats=tuple(results))
    promotion, refusal = _label(store, versions, config)
    card = write_card(config.checkpoint, checkpoint, results, exporter.validation.source)
    labels = Record.of(store).labels
    return ExportResult(
        formats=tuple(results),
        promotion=promotion,
        refusal=refusal,
        card=card,
        candidate=labels.candidate if labels.candidate in versions else None,
        production=labels.production,
    )


def _label(store: VersionStore, versions: Sequence[int], config: ExportConfig) -> tuple[Promotion | None, str | None]:
    """Label the installed versions; return the promotion, or the reason why a requested promotion did not happen."""
    try:
        promotion = label_exported(store, versions, promote_it=config.promote, reason=config.reason)
    except RepositoryError as error:
        return None, str(error)
    if promotion is None and config.promote:
        return None, "nothing is promoted: Triton serves none of these formats; fix: add --format onnx"
    return promotion, None


@dataclass(frozen=True, slots=True)
class _Exporter:
    """Exports one checkpoint, one format at a time."""

    config: ExportConfig
    checkpoint: Checkpoint
    store: VersionStore
    validation: Validation

    def export(self, export_format: Format) -> FormatResult:
        """Build, verify and install one format. An error becomes part of the result."""
        started = time.monotonic()
        lack = builders.missing(export_format)
        if lack is not None:
            skip = self.config.skip_missing
            return FormatResult(format=export_format, left_out=lack if skip else None, error=None if skip else lack)
        try:
            result = self._install(export_format)
        except ReentryError as error:
            result = FormatResult(format=export_format, error=str(error))
        except OSError as error:  # from the temporary folder
            reason = f"cannot write files: {error.strerror or error}; fix: free disk space, or set TMPDIR"
            result = FormatResult(format=export_format, error=f"{tempfile.gettempdir()}: {reason}")
        return replace(result, seconds=time.monotonic() - started)

    def _install(self, export_format: Format) -> FormatResult:
        spec, config, checkpoint = FORMATS[export_format], self.config, self.checkpoint
        for _ in range(_ATTEMPTS):
            version = next_version(self.store)
            with tempfile.TemporaryDirectory(prefix="reentry-export-") as scratch:
                folder = Path(scratch)
                session = builders.build(export_format, checkpoint, version, folder, config.tensorrt)
                whole, step = folder / spec.whole_file, folder / spec.step_file
                derived, warnings = builders.build_derived(export_format, checkpoint, version, folder)
                graphs = {whole: REENTRY_LSTM, step: REENTRY_STEP}
                graphs |= {folder / each.file: each.model for each in spec.derived}
                for path, model in graphs.items():
                    if path.suffix == ".onnx" and path.is_file():
                        check_signature(path, model, checkpoint.model_config)
                verification = verify(
                    session,
                    checkpoint,
                    config,
                    version=version,
                    tolerance=spec.tolerance,
                    validation=self.validation.samples,
                    derived=derived,
                )
                if checkpoint.reference is not None:
                    (folder / REFERENCE_FILE).write_text(json.dumps(checkpoint.reference.as_dict(), indent=2) + "\n")
                manifest = self._manifest(export_format, version, verification, folder)
                (folder / MANIFEST_FILE).write_text(manifest.to_json())
                size = whole.stat().st_size + step.stat().st_size
                try:
                    place = self.store.install(folder, version)
                except FileExistsError:  # another export took this number
                    continue
            return FormatResult(
                format=export_format,
                version=version,
                place=place,
                size=size,
                verification=verification,
                warnings=warnings,
            )
        raise ExportError(
            f"no free version number after {_ATTEMPTS} attempts", where=self.store.location, fix="export again"
        )

    def _manifest(self, export_format: Format, version: int, verification: Verification, folder: Path) -> Manifest:
        spec, config, checkpoint = FORMATS[export_format], self.config, self.checkpoint
        parameters = sum(weight.numel() for weight in checkpoint.model.parameters())
        return Manifest(
            version=version,
            format=export_format,
            precision="fp16" if export_format is Format.TENSORRT and config.tensorrt.fp16 else spec.precision,
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
                "data": self.validation.source,
                "fingerprint": DataIdentity.of(s.track for s in self.validation.samples).tracks_fingerprint,
                "tolerance": asdict(spec.tolerance),
                "batches": list(config.batches),
                "lengths": list(config.lengths),
            },
            files=file_entries(folder),
            data_table=checkpoint.data_table,
        )


def _require_served_decision(path: Path, decision: DecisionConfig) -> None:
    """Require the thresholds of the server, without which the measured phases would not be the served ones."""
    served = DecisionConfig()
    if decision != served:
        raise ExportError(
            "the checkpoint was evaluated with other decision thresholds than the server's",
            where=str(path),
            expected=f"enter {served.enter:g}, leave {served.leave:g}",
            got=f"enter {decision.enter:g}, leave {decision.leave:g}",
            fix="train again with `reentry train`",
        )
