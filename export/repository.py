"""Installing a version into the Triton model repository: all of it, or nothing.

A version is made in a folder whose name Triton does not take for a version, and gets its number by one rename. A second
export at the same moment makes that rename fail; it then takes the next number.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import onnx

from export.config import ExportConfig
from export.graphs import to_onnx
from export.verify import Verification, verify
from reentry.decision import DecisionConfig
from reentry.errors import ExportError
from reentry.monitoring import REFERENCE_FILE, Reference
from reentry.schema import REENTRY_LSTM
from reentry.serving.repository import installed_versions
from training.checkpoint import Checkpoint, load_checkpoint

MODEL_FILE: Final = "model.onnx"
MANIFEST_FILE: Final = "manifest.json"
_ATTEMPTS: Final = 10


def export_checkpoint(config: ExportConfig) -> tuple[Path, Verification]:
    """Export, verify, and install as the next version.

    Returns:
        The folder of the new version, and what the verification measured.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        ExportError: the repository is none or takes no files, the thresholds are not those served, or the graph is not
            the network; nothing is installed then.
    """
    checkpoint = load_checkpoint(config.checkpoint)
    _require_served_decision(config.checkpoint, checkpoint.decision)
    folder = config.repository / REENTRY_LSTM.name
    if not (folder / "config.pbtxt").is_file():
        raise ExportError(
            "not a model repository of this program",
            where=str(config.repository),
            expected=f"{REENTRY_LSTM.name}/config.pbtxt in it",
            fix="give the model_repository folder of the checkout with --repository",
        )
    for _ in range(_ATTEMPTS):
        version = max(installed_versions(folder), default=0) + 1
        graph = to_onnx(checkpoint, version)
        verification = verify(
            graph,
            checkpoint.model,
            version=version,
            batches=config.batches,
            lengths=config.lengths,
            tolerance=config.tolerance,
        )
        manifest = _manifest(config, checkpoint, version, verification)
        try:
            return _install(folder, version, graph, manifest, checkpoint.reference), verification
        except FileExistsError:  # another export took this number
            continue
    raise ExportError(f"no free version number after {_ATTEMPTS} attempts", where=str(folder), fix="export again")


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


def _install(
    folder: Path, version: int, graph: onnx.ModelProto, manifest: dict[str, object], reference: Reference | None
) -> Path:
    target = folder / str(version)
    try:
        staging = Path(tempfile.mkdtemp(dir=folder, prefix=".incoming-"))
    except OSError as error:
        raise _not_installed(folder, error) from error
    try:
        onnx.save(graph, staging / MODEL_FILE)
        (staging / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2) + "\n")
        if reference is not None:
            (staging / REFERENCE_FILE).write_text(json.dumps(reference.as_dict(), indent=2) + "\n")
        staging.chmod(0o755)  # mkdtemp's 0700 would hide the version from a server that runs as another user
        staging.rename(target)
    except OSError as error:
        if target.exists():  # a folder that is not empty is there by now
            raise FileExistsError(target) from error
        raise _not_installed(target, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def _not_installed(place: Path, error: OSError) -> ExportError:
    return ExportError(
        f"cannot install: {error.strerror or error}",
        where=str(place),
        fix="give a repository with room that takes files with --repository",
    )


def _manifest(
    config: ExportConfig, checkpoint: Checkpoint, version: int, verification: Verification
) -> dict[str, object]:
    """What a stranger wants to know of a version before trusting it."""
    return {
        "version": version,
        "format": "onnx",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "checkpoint_sha256": hashlib.sha256(config.checkpoint.read_bytes()).hexdigest(),
        "schema_version": checkpoint.schema_version,
        "data_fingerprint": checkpoint.data_fingerprint,
        "git_revision": checkpoint.git_revision,
        "seed": checkpoint.seed,
        "metrics": checkpoint.metrics,
        "verification": {
            "max_difference": verification.max_difference,
            "prefix_difference": verification.prefix_difference,
            "tolerance": config.tolerance,
            "batches": list(config.batches),
            "lengths": list(config.lengths),
        },
    }
