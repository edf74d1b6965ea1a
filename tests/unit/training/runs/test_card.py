"""The model card: metrics by kind of flight, plots, and the section on exports."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from export.results import write_card as write_export_section
from reentry.decision import DecisionConfig
from reentry.schema import LATITUDE, LONGITUDE, MEASUREMENT_COLUMNS, SENSOR_ID, TIMESTAMP
from reentry.simulation import simulate_file
from reentry.simulation.trapezoid import LABEL_RULES
from reentry.tracks import Track, fingerprint, write_tracks
from tests.training_data import short_flights
from training.checkpoint import load_checkpoint
from training.config import ModelConfig, TrainConfig
from training.evaluation.groups import by_group, range_class, range_km, sensors
from training.evaluation.metrics import Prediction
from training.runs.card import CARD_NAME, markdown
from training.train import TrainReport, train_file

DECISION = DecisionConfig()
ORIGIN = {"profile": "ballistic", "severity": 2, "seed": 7, "settings": {"shots": {"decoys": 0.1}}}


def track(*, to: tuple[float, float] = (0.0, 0.0), seen_by: int = 1, onset: int = 3) -> Track:
    """Five steps, 1 s apart, from latitude and longitude 0 to `to` in degrees."""
    steps = np.arange(5)
    measurements = np.zeros((5, len(MEASUREMENT_COLUMNS)))
    measurements[:, MEASUREMENT_COLUMNS.index(TIMESTAMP.name)] = 1.7e9 + steps
    for column, end in ((LATITUDE, to[0]), (LONGITUDE, to[1])):
        measurements[:, MEASUREMENT_COLUMNS.index(column.name)] = end * steps / 4
    measurements[:, MEASUREMENT_COLUMNS.index(SENSOR_ID.name)] = steps % seen_by
    return Track(
        track_id=1, measurements=measurements, reentry_phase=(steps >= onset).astype(np.int8), rows=steps, steps=steps
    )


def late_by(steps: int, **settings: Any) -> Prediction:
    """Prediction whose onset is so many steps late."""
    return Prediction(track=track(**settings), probability=(np.arange(5) >= 3 + steps).astype(float))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "train.parquet"
    write_tracks(path, short_flights(10), origin=ORIGIN)
    return path


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainReport:
    return train_file(data, tmp_path_factory.mktemp("trained"), ModelConfig(), TrainConfig(epochs=2, accelerator="cpu"))


def trained_on(path: Path, out: Path) -> str:
    """Text of the card after a short training."""
    return (
        train_file(path, out, ModelConfig(hidden=4), TrainConfig(epochs=1, accelerator="cpu"))
        .checkpoint.with_name(CARD_NAME)
        .read_text(encoding="utf-8")
    )


@pytest.fixture
def card(trained: TrainReport) -> str:
    return trained.checkpoint.with_name(CARD_NAME).read_text(encoding="utf-8")


@pytest.mark.parametrize("rule", LABEL_RULES)
def test_the_card_names_the_recorded_label_rule_and_the_one_that_the_labels_follow(rule: str, tmp_path: Path) -> None:
    settings = tmp_path / "rule.toml"
    settings.write_text(f'[trapezoid]\nlabel_rule = "{rule}"\nshortest = 60\nlongest = 90\n')
    other = next(name for name in LABEL_RULES if name != rule)
    for suffix in ("csv", "parquet"):
        simulate_file(tmp_path / f"data.{suffix}", tracks=12, seed=3, config=settings)
        card = trained_on(tmp_path / f"data.{suffix}", tmp_path / suffix)
        assert (f"label_rule {rule}" in card) == (suffix == "parquet")  # a CSV file has no metadata
        (line,) = [line for line in card.splitlines() if line.startswith("| labels follow the rule |")]
        assert f"`{rule}` in 12" in line
        assert f"`{other}` in 12" not in line


def test_the_card_omits_label_rules_if_none_fits(card: str, tmp_path: Path) -> None:
    flights = short_flights(10)
    flights["reentry_phase"] = flights.groupby("track_id")["reentry_phase"].shift(-1).fillna(1).astype(int)
    write_tracks(tmp_path / "early.csv", flights)
    assert "labels follow" not in trained_on(tmp_path / "early.csv", tmp_path / "out")


@pytest.mark.parametrize(
    ("to", "kilometres"),
    [((0.0, 0.0), 0.0), ((90.0, 0.0), math.pi / 2 * 6371), ((0.0, 180.0), math.pi * 6371), ((0.0, -1.0), 111.195)],
)
def test_the_range_is_the_great_circle_from_the_first_to_the_last_measurement(
    to: tuple[float, float], kilometres: float
) -> None:
    assert range_km(track(to=to)) == pytest.approx(kilometres, rel=1e-5)


def test_range_classes_are_divided_at_1000_3500_and_5500_km() -> None:
    per_degree = math.pi * 6371 / 180
    classes = {km: range_class(track(to=(km / per_degree, 0.0))) for km in (999, 1001, 3499, 3501, 5499, 5501, 10_000)}
    assert list(classes.values()) == [
        "below 1,000 km",
        "1,000 to 3,500 km",
        "1,000 to 3,500 km",
        "3,500 to 5,500 km",
        "3,500 to 5,500 km",
        "5,500 km and more",
        "5,500 km and more",
    ]


def test_each_sensor_is_counted_once() -> None:
    assert [sensors(track(seen_by=count)) for count in (1, 2, 5)] == ["1", "2", "5"]


def test_metrics_of_a_group_cover_its_tracks_alone() -> None:
    predictions = [
        late_by(0, to=(1.0, 0.0)),
        late_by(1, to=(20.0, 0.0), seen_by=2),
        late_by(0, to=(1.0, 0.0), seen_by=2),
    ]
    groups = {(group.by, group.name): group.metrics for group in by_group(predictions, DECISION, ORIGIN)}
    assert list(groups) == [
        ("profile", "ballistic"),
        ("severity", "2"),
        ("range", "below 1,000 km"),
        ("range", "1,000 to 3,500 km"),
        ("sensors", "1"),
        ("sensors", "2"),
    ]
    assert {key: (metrics.tracks, metrics.onset_rmse) for key, metrics in groups.items()} == {
        ("profile", "ballistic"): (3, pytest.approx(math.sqrt(1 / 3))),
        ("severity", "2"): (3, pytest.approx(math.sqrt(1 / 3))),
        ("range", "below 1,000 km"): (2, 0.0),
        ("range", "1,000 to 3,500 km"): (1, 1.0),
        ("sensors", "1"): (1, 0.0),
        ("sensors", "2"): (2, pytest.approx(math.sqrt(1 / 2))),
    }


def test_profile_and_severity_are_unknown_without_recorded_simulation_settings() -> None:
    groups = by_group([late_by(0)], DECISION, None)
    assert [(group.by, group.name) for group in groups[:2]] == [("profile", "unknown"), ("severity", "unknown")]


def test_the_card_describes_the_training_data(card: str, data: Path, trained: TrainReport) -> None:
    checkpoint = load_checkpoint(trained.checkpoint)
    assert f"| data | {data}, {trained.read.rows:,} rows |" in card
    assert (
        '| source | simulated, profile ballistic, severity 2, seed 7, settings `{"shots": {"decoys": 0.1}}` |' in card
    )
    assert f"`{fingerprint(data)}`" in card
    assert f"`{checkpoint.data_fingerprint}`" in card
    assert "| trained on | 8 tracks |" in card
    assert "| held out | 2 tracks, whole |" in card


def test_the_severity_of_a_csv_file_joined_from_several_is_unknown(tmp_path: Path) -> None:
    tables = []
    for severity in (1, 3):
        simulate_file(tmp_path / f"{severity}.parquet", profile="ballistic", tracks=6, severity=severity, processes=1)
        tables.append(pd.read_parquet(tmp_path / f"{severity}.parquet"))
        tables[-1]["track_id"] += 100 * severity
    pd.concat(tables).to_csv(tmp_path / "both.csv", index=False)
    card = trained_on(tmp_path / "both.csv", tmp_path / "both")
    assert "| source | unknown |" in card
    assert "| profile | unknown | 2 | " in card
    assert "| severity | unknown | 2 | " in card
    card = trained_on(tmp_path / "3.parquet", tmp_path / "one")
    assert "| source | simulated, profile ballistic, severity 3, seed 0 |" in card
    assert "| severity | 3 | 1 | " in card


def test_recorded_settings_for_another_number_of_tracks_are_ignored(tmp_path: Path) -> None:
    write_tracks(tmp_path / "joined.parquet", short_flights(10), origin={**ORIGIN, "tracks": 5})
    card = trained_on(tmp_path / "joined.parquet", tmp_path / "joined")
    assert "| source | unknown: the file describes another number of tracks |" in card
    assert "| severity | unknown | 2 | " in card
    assert "Trained on simulated flights" not in card

    flights = short_flights(10)
    flights.loc[flights["track_id"] == 3, "latitude"] = 120.0  # set aside, but counted
    write_tracks(tmp_path / "bad.parquet", flights, origin={**ORIGIN, "tracks": 10})
    assert "| source | simulated, profile ballistic, severity 2" in trained_on(
        tmp_path / "bad.parquet", tmp_path / "bad"
    )


def test_the_card_has_the_metrics_of_the_checkpoint_and_of_each_group(card: str, trained: TrainReport) -> None:
    metrics = trained.trained.checkpoint.metrics
    assert f"| onset RMSE, s | {metrics['onset_rmse']:.3f} |" in card
    assert f"| Brier score of the steps | {metrics['brier']:.5f} |" in card
    for row in ("| profile | ballistic | 2 | ", "| severity | 2 | 2 | ", "| sensors | 1 | 2 | "):
        assert f"{row}{metrics['onset_rmse']:.3f} | " in card
    assert "Validated on fewer than 20 tracks: profile ballistic; severity 2; " in card


def test_the_plots_of_the_card_are_in_its_folder(card: str, trained: TrainReport) -> None:
    for name in ("onset_errors.png", "reliability.png"):
        assert f"]({name})" in card
        assert trained.checkpoint.with_name(name).read_bytes().startswith(b"\x89PNG")


def test_a_second_export_replaces_its_section_in_the_card(card: str, trained: TrainReport) -> None:
    checkpoint = load_checkpoint(trained.checkpoint)
    for data in ("first tracks", "other tracks"):
        path = write_export_section(trained.checkpoint, checkpoint, [], data)
        text = path.read_text(encoding="utf-8")
        assert text.startswith(card.rstrip())
        assert text.count("## Export") == 1
        assert data in text
    assert "first tracks" not in text


def test_the_card_of_a_checkpoint_alone_has_neither_groups_nor_plots(trained: TrainReport) -> None:
    text = markdown(load_checkpoint(trained.checkpoint))
    assert "| held out | 2 tracks, whole |" in text
    assert "By kind of flight" not in text
    assert ".png" not in text
