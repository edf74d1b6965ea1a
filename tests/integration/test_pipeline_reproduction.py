"""Train on a table, rewrite it many times, remove old files, and reproduce the run to the last bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli import app
from export.config import ExportConfig
from export.pipeline import export_checkpoint
from pipeline.lake.files import missing_files
from pipeline.lake.lake import Lake
from registry.labels import Labels, Record
from registry.open import open_store as open_repository
from registry.store import manifest_of
from tests.lake import write_clean
from tests.training_data import short_flights
from tests.versions import bare_repository
from training.runs.mlflow_store import open_store, tracking_uri


def command(*words: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [*words, "--json"])
    assert result.exit_code == code, result.output + repr(result.exception)
    return json.loads(result.stdout)


def test_a_run_is_reproduced_to_the_last_bit_after_rewrites_and_maintenance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(str(tmp_path / "lake"))
    monkeypatch.setenv("REENTRY_PIPELINE_LAKE", lake.location)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("REENTRY_IMAGE_DIGEST", "sha256:1234")
    write_clean(lake, short_flights(10))
    built = command("features", "build", "--no-orbit")
    assert built["features"] == "lake:features@1"
    options = ("--epochs", "3", "--hidden", "8", "--seed", "5", "--where", "track_id <> 4")
    command("train", "lake:features@1", "--out", str(tmp_path / "out"), *options)

    (run,) = command("runs", "list")
    recorded = run["parameters"]
    assert {
        "data.table": "features",
        "data.version": "1",
        "data.filter": "track_id <> 4",
        "data.rows": str(built["rows"] - int(short_flights(10)["track_id"].isin([3, 4]).sum())),  # 3 is held out
        "data.built_from": "lake:clean@1",
        "image_digest": "sha256:1234",
        "train.seed": "5",
        "threads": "1",
    }.items() <= recorded.items()
    assert len(recorded["data.schema_hash"]) == len(recorded["lock_hash"]) == 64
    assert recorded["git_revision"]

    for seed in range(1, 6):
        write_clean(lake, short_flights(10, seed=seed))
        assert command("features", "build", "--no-orbit")["built"]
    maintained = {each["table"]: each for each in command("lake", "maintain", "--retention-hours", "0")}
    assert maintained["features"]["kept"] == [1]
    assert maintained["features"]["removed"] > 0
    assert [version for version in range(1, 7) if not missing_files(lake, "features", version)] == [1, 6]

    again = ("reproduce", run["run_id"][:8], "--out", str(tmp_path / "again"))
    report = command(*again, "--allow-other-code")  # others may commit while the tests run
    assert (report["exact"], report["differences"]) == (True, [])
    assert report["metrics"] > 15
    assert report["weights"] > 5

    # The model that was exported keeps the version without the run, for as long as it has a label.
    config = ExportConfig(
        checkpoint=tmp_path / "out" / "model.ckpt", repository=bare_repository(tmp_path), batches=(1,), lengths=(1, 7)
    )
    exported = export_checkpoint(config)
    store = open_repository(config.repository)
    assert exported.production is not None
    assert manifest_of(store, exported.production).data_table == {
        "name": "features",
        "version": 1,
        "id": recorded["data.table_id"],
    }
    open_store(tracking_uri()).delete_run(run["run_id"])
    maintain = ("lake", "maintain", "--retention-hours", "0", "--repository", str(config.repository))
    maintained = {each["table"]: each for each in command(*maintain)}
    assert maintained["features"]["kept"] == [1]
    assert not missing_files(lake, "features", 1)
    labels = Record.of(store)
    labels.replace(store, Labels())
    command(*maintain)
    assert missing_files(lake, "features", 1)
