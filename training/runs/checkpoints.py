"""Which run made a checkpoint, and the recorded copy of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from reentry.runtime.files import sha256_of
from training.runs.mlflow_store import EXPERIMENT, existing_store, quiet, tracking_uri, usable
from training.runs.runs import recorded_file

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHECKPOINT_TAG: Final = "checkpoint_sha256"
"""Tag of a run with the SHA-256 of its checkpoint."""


def run_of_checkpoint(client: MlflowClient, sha256: str) -> str | None:
    """Return the id of the newest run that made a checkpoint; None if no run did."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return None
    found = client.search_runs(
        [experiment.experiment_id],
        f"tags.{CHECKPOINT_TAG} = '{sha256}'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    return str(found[0].info.run_id) if found else None


def fetch_checkpoint(sha256: str, name: str, folder: Path) -> Path | None:
    """Copy the recorded checkpoint with this SHA-256 into a folder.

    Args:
        sha256: SHA-256 of the checkpoint.
        name: name of its file.
        folder: folder of the copy.

    Returns:
        Path of the copy; None if MLflow is not installed, or no run has the checkpoint.

    Raises:
        ConfigError: the store is unusable.
    """
    run_id = _find(sha256)
    copy = recorded_file(run_id, name, folder) if run_id is not None else None
    return copy if copy is not None and sha256_of(copy) == sha256 else None


def tag_run(sha256: str, tags: dict[str, str]) -> None:
    """Set tags of the run that made a checkpoint, if there is one.

    Raises:
        ConfigError: the store is unusable.
    """
    client, run_id = existing_store(), _find(sha256)
    if client is None or run_id is None:
        return
    with quiet(), usable(tracking_uri()):
        for tag, value in tags.items():
            client.set_tag(run_id, tag, value)


def _find(sha256: str) -> str | None:
    client = existing_store()
    if client is None:
        return None
    with quiet(), usable(tracking_uri()):
        return run_of_checkpoint(client, sha256)
