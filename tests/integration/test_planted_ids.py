"""Ids that are planted in landing files reach no table, log, training run or other file of the pipeline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import cli
from pipeline.privacy.audit import audit
from pipeline.privacy.id_search import IdSearch
from pipeline.settings import PipelineSettings
from tests.landing import HOUR, flat_track, land, pipeline_settings

SENSORS = [47110001 + number for number in range(4)]
OPERATORS = ["Zoe Quillfeather", "OP-998877", "quillfeather@example.org"]
NOTES = ["Berthold Unwin-Sparrow", "berthold@example.net", "+49 151 99887766", "77553311"]
PLANTED = [*map(str, SENSORS), *OPERATORS, *NOTES]
MISPLACED = "66442299"
"""A number that stands where another number belongs."""


def plant(settings: PipelineSettings) -> None:
    """Write files with ids in the right columns, in wrong and unknown ones, in bad rows and in unusable files."""
    good = pd.concat([flat_track(number, sensor=SENSORS[number % 4], steps=40) for number in range(1, 25)])
    good = good.assign(operator_id=np.resize(OPERATORS, len(good)), note=np.resize(NOTES, len(good)))
    good[f"seen by {NOTES[1]}"] = 1
    good["contact's " + OPERATORS[2]] = NOTES[0]
    land(settings, "good.csv", good)

    bad = good.assign(track_id=good["track_id"] + 100).astype(object).reset_index(drop=True)
    places = ["latitude", "longitude", "altitude", "radiometric_intensity", "track_id", "timestamp", "sensor_id"]
    for row, column in enumerate(places):
        bad.loc[5 + row, column] = OPERATORS[0]
        bad.loc[65 + row, column] = NOTES[1]
        bad.loc[125 + row, column] = MISPLACED if column in places[:2] else f"{MISPLACED}.5x"
    bad.loc[200, "sensor_id"] = f"{SENSORS[0]}-{SENSORS[1]}"
    bad.loc[201, "reentry_phase"] = MISPLACED
    land(settings, "bad.csv", bad, hour="2026-12-01T09")
    with (Path(settings.landing) / "2026-12-01T09" / "bad.csv").open("a") as file:
        file.write(f"{OPERATORS[2]},too,few\n")

    unusable = Path(settings.landing) / "2026-12-01T10"
    unusable.mkdir()
    (unusable / "renamed.csv").write_text(good.rename(columns={"sensor_id": f"sensor_id's {OPERATORS[2]}"}).to_csv())
    quoted = good.rename(columns={"sensor_id": f"sensor_id'{SENSORS[0]}"})
    (unusable / "quoted.csv").write_text(quoted.to_csv(index=False))
    (unusable / "repeated.csv").write_text(f"{OPERATORS[0]},{OPERATORS[0]}\n1,2\n")
    (unusable / "headless.csv").write_text(good.to_csv(header=False, index=False))
    (unusable / "semicolon.csv").write_text(good.to_csv(sep=";", index=False))
    (unusable / "words.csv").write_text(good.assign(altitude=OPERATORS[0]).to_csv(index=False))
    (unusable / "binary.parquet").write_bytes(b"PAR1" + OPERATORS[0].encode() * 40)
    (unusable / "nul.csv").write_bytes(good.to_csv(index=False).encode() + b"\0" + OPERATORS[2].encode())


def run(*arguments: str) -> str:
    """Run a command with debug lines and return all that it prints."""
    shown = CliRunner().invoke(cli.app, ["--verbose", *arguments])
    if shown.exception is not None and not isinstance(shown.exception, SystemExit):
        raise shown.exception
    return shown.output


def test_planted_ids_are_nowhere_outside_the_landing_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = pipeline_settings(tmp_path)
    for name in ("lake", "landing", "pseudonym_keys"):
        monkeypatch.setenv(f"REENTRY_PIPELINE_{name.upper()}", getattr(settings, name))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'runs.db'}")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # copies of other tests' ingestions are no findings here
    plant(settings)
    log = run("ingest", "--since", HOUR, "--until", "2026-12-01T10")
    log += run("lake", "clean")
    log += run("features", "build")
    log += run("train", "lake:features", "--out", str(tmp_path / "train"), "--epochs", "1", "--hidden", "4")
    (tmp_path / "all.log").write_text(log)
    # The flow did its work: otherwise there would be nothing to find.
    tables = {
        name: pq.read_table(Path(settings.lake) / name).num_rows for name in ("raw", "quarantine", "clean", "features")
    }
    assert all(tables.values()), tables
    assert (tmp_path / "train" / "model.ckpt").exists()

    search = IdSearch([*PLANTED, MISPLACED])
    found = {}
    for path in tmp_path.rglob("*"):
        if path.is_file() and not path.is_relative_to(settings.landing):
            place = str(path.relative_to(tmp_path))
            count = search.in_text(path.read_bytes()) + search.in_text(place.encode())
            found[place] = count + (
                sum(search.in_table(pq.ParquetFile(path).read()).values()) if path.suffix == ".parquet" else 0
            )
    assert len(found) > 30
    assert {place: count for place, count in found.items() if count} == {}
    ids = tmp_path / "ids.txt"
    ids.write_text("\n".join([*PLANTED, MISPLACED]))
    report = audit(settings, search=ids, logs=[tmp_path / "all.log"])
    assert report.findings == []
    assert report.searched["training runs"] > 20
