"""The commands `reentry privacy ...`: arguments, output and exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

import cli
from pipeline.ingest.ingest import ingest
from pipeline.lake.lake import Lake
from pipeline.privacy.keys import load_keys
from pipeline.settings import PipelineSettings
from tests.landing import HOUR, flat_track, land, pipeline_settings

SENSOR = 4711001


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PipelineSettings:
    """A lake with a track of the sensor and one of another."""
    settings = pipeline_settings(tmp_path)
    for name in ("lake", "landing", "pseudonym_keys"):
        monkeypatch.setenv(f"REENTRY_PIPELINE_{name.upper()}", getattr(settings, name))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'runs.db'}")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # copies of other tests' ingestions are no findings here
    land(settings, "a.csv", flat_track(1, sensor=SENSOR), flat_track(2, sensor=4711002))
    ingest(settings, [HOUR])
    return settings


def run(*arguments: str, typed: str | None = None) -> Result:
    return CliRunner().invoke(cli.app, ["privacy", *arguments], input=typed)


def test_a_key_file_is_written_and_its_key_is_not_printed(tmp_path: Path) -> None:
    path = tmp_path / "new.json"
    shown = run("new-key", str(path))
    assert shown.exit_code == 0
    assert shown.output == f"{path}: key {load_keys(f'file:{path}').current}\n"


def test_a_rotation_prints_the_new_key_id_and_the_rows(settings: PipelineSettings) -> None:
    shown = json.loads(run("rekey", "--add-key", "--json").stdout)
    assert shown["added"]
    assert shown["key_id"] == load_keys(settings.pseudonym_keys).current
    assert shown["rows"] == {"raw": 40}


def test_an_id_is_read_from_standard_input_and_not_printed(settings: PipelineSettings) -> None:
    planned = run("erase", "--sensor", "-", "--dry-run", typed=f"{SENSOR}\n")
    assert "rows that would be removed: raw 20" in planned.output
    assert Lake(settings.lake).open("raw").to_pyarrow_table().num_rows == 40
    done = run("erase", "--sensor", "-", typed=f"{SENSOR}\n")
    assert "rows that were removed: raw 20" in done.output
    assert str(SENSOR) not in planned.output + done.output
    assert Lake(settings.lake).open("raw").to_pyarrow_table().num_rows == 20


@pytest.mark.parametrize("arguments", [(), ("--sensor", "1", "--track", "1")])
def test_exactly_one_id_is_erased_at_a_time(arguments: tuple[str, ...]) -> None:
    assert run("erase", *arguments).exit_code == 2


def test_an_audit_fails_if_it_finds_something(settings: PipelineSettings, tmp_path: Path) -> None:
    (tmp_path / "good.log").write_text("rows 40\n")
    (tmp_path / "bad.log").write_text(f"sensor {SENSOR}\n")
    good = run("audit", "--log", str(tmp_path / "good.log"))
    assert (good.exit_code, good.output.splitlines()[-1]) == (0, "findings: 0")
    bad = run("audit", "--log", str(tmp_path / "good.log"), "--log", str(tmp_path / "bad.log"))
    assert bad.exit_code == 1
    assert f"FOUND {tmp_path / 'bad.log'}: plain ids: 1" in bad.output
    assert str(SENSOR) not in bad.output
