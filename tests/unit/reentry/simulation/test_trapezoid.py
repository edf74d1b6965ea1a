"""Simulated flights against the form of the public data, written out step by step."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from reentry.errors import ConfigError
from reentry.simulation import TrapezoidConfig, simulate_file, simulate_trapezoid, trapezoid_chunks
from reentry.simulation.trapezoid import LONGEST, TRACKS_PER_CHUNK
from reentry.tracks import read_tracks, write_tracks


def reference(steps: int, apogee: float) -> dict[str, np.ndarray]:
    """One flight without noise, written as the public generator writes it."""
    climb, level = int(0.3 * steps), int(0.4 * steps)
    altitude = np.concatenate(
        [
            np.linspace(0, apogee, climb),
            np.full(level, apogee),
            np.linspace(apogee, 0, steps - climb - level),
        ]
    )
    return {
        "latitude": np.linspace(64.135, 40.015, steps),
        "longitude": np.linspace(-21.895, -105.27, steps),
        "altitude": altitude,
        "radiometric_intensity": altitude / 120_000,
        "reentry_phase": (np.arange(steps) >= int(0.85 * steps)).astype(int),
    }


def test_a_flight_without_noise_has_the_form_of_the_public_data() -> None:
    table = simulate_trapezoid(TrapezoidConfig(tracks=200, noise=0.0, seed=5))
    assert table["track_id"].nunique() == 200
    for track_id, flight in table.groupby("track_id"):
        expected = reference(len(flight), flight["altitude"].max())
        for name, values in expected.items():
            np.testing.assert_allclose(flight[name], values, rtol=1e-12, atol=1e-7, err_msg=f"{track_id} {name}")
        time = 1_731_308_400 + 600 * int(str(track_id)) + 0.5 * np.arange(len(flight))
        np.testing.assert_array_equal(flight["timestamp"], time)
        assert (flight["sensor_id"] == 3).all()


@pytest.mark.parametrize(("steps", "onset"), [(600, 510), (660, 561), (804, 683), (1200, 1020)])
def test_the_onset_is_at_eighty_five_percent_rounded_down_exactly(steps: int, onset: int) -> None:
    table = simulate_trapezoid(TrapezoidConfig(tracks=1, shortest=steps, longest=steps))
    assert int(table["reentry_phase"].argmax()) == onset
    assert int(table["reentry_phase"].sum()) == steps - onset


def test_under_the_rule_descent_the_onset_is_the_first_row_below_half_the_apogee() -> None:
    differ = 0
    for steps in range(600, 1201):
        table = simulate_trapezoid(
            TrapezoidConfig(tracks=1, shortest=steps, longest=steps, noise=0.0, label_rule="descent")
        )
        altitude = table["altitude"].to_numpy()
        share = altitude / altitude.max()
        climb = int(0.3 * steps)
        expected = climb + int((share[climb:] < 0.5 - 1e-9).argmax())
        assert int(table["reentry_phase"].argmax()) == expected, steps
        differ += expected != int(0.85 * steps)
    assert differ == 180  # of 601 lengths, by one row each


def test_the_label_rule_changes_the_labels_alone() -> None:
    flight = simulate_trapezoid(TrapezoidConfig(tracks=20))
    descent = simulate_trapezoid(TrapezoidConfig(tracks=20, label_rule="descent"))
    pd.testing.assert_frame_equal(flight.drop(columns="reentry_phase"), descent.drop(columns="reentry_phase"))
    assert not flight["reentry_phase"].equals(descent["reentry_phase"])


def test_lengths_and_apogees_fill_their_ranges() -> None:
    table = simulate_trapezoid(TrapezoidConfig(tracks=2000, noise=0.0))
    flights = table.groupby("track_id")["altitude"].agg(["size", "max"])
    assert (flights["size"].min(), flights["size"].max()) == (600, 1200)
    assert flights["size"].mean() == pytest.approx(900, abs=15)
    assert 100_000 <= flights["max"].min() < 100_100
    assert 119_900 < flights["max"].max() <= 120_000
    assert flights["max"].mean() == pytest.approx(110_000, abs=500)


@pytest.mark.parametrize("column", ["latitude", "longitude", "altitude", "radiometric_intensity"])
def test_noise_is_gaussian_with_the_standard_deviation_asked_for(column: str) -> None:
    config = TrapezoidConfig(tracks=100)
    noise = simulate_trapezoid(config)[column] - simulate_trapezoid(replace(config, noise=0.0))[column]
    assert noise.mean() == pytest.approx(0.0, abs=2e-4)
    assert noise.std() == pytest.approx(0.01, rel=0.02)
    assert noise.abs().gt(0.02).mean() == pytest.approx(0.0455, abs=0.004)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    first, again, other = tmp_path / "a.csv", tmp_path / "b.csv", tmp_path / "c.csv"
    for path, seed in ((first, 7), (again, 7), (other, 8)):
        simulate_file(path, tracks=3, seed=seed)
    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes() != other.read_bytes()


def test_the_first_tracks_are_the_same_however_many_are_made() -> None:
    many = simulate_trapezoid(TrapezoidConfig(tracks=TRACKS_PER_CHUNK + 3, shortest=10, longest=20))
    for tracks in (1, 5, TRACKS_PER_CHUNK, TRACKS_PER_CHUNK + 1):
        few = simulate_trapezoid(TrapezoidConfig(tracks=tracks, shortest=10, longest=20))
        pd.testing.assert_frame_equal(few, many.iloc[: len(few)])


def test_chunks_hold_whole_tracks_and_bound_the_memory() -> None:
    chunks = list(trapezoid_chunks(TrapezoidConfig(tracks=2 * TRACKS_PER_CHUNK + 1, shortest=10, longest=20)))
    tracks = [chunk["track_id"].unique().tolist() for chunk in chunks]
    assert [len(ids) for ids in tracks] == [TRACKS_PER_CHUNK, TRACKS_PER_CHUNK, 1]
    assert [i for ids in tracks for i in ids] == list(range(2 * TRACKS_PER_CHUNK + 1))


def test_without_labels_the_measurements_are_the_same_and_the_label_column_is_not_there() -> None:
    labelled = simulate_trapezoid(TrapezoidConfig(tracks=3))
    unlabelled = simulate_trapezoid(TrapezoidConfig(tracks=3, labels=False))
    pd.testing.assert_frame_equal(unlabelled, labelled.drop(columns="reentry_phase"))


def test_long_tracks_come_fewer_at_a_time_and_are_the_same() -> None:
    config = TrapezoidConfig(tracks=5, shortest=10, longest=LONGEST)
    chunks = list(trapezoid_chunks(config))
    assert [chunk["track_id"].unique().tolist() for chunk in chunks] == [[0, 1, 2], [3, 4]]
    fewer = simulate_trapezoid(replace(config, tracks=2))
    pd.testing.assert_frame_equal(chunks[0].iloc[: len(fewer)], fewer)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tracks": 0}, "tracks out of range; expected at least 1; got 0"),
        ({"label_rule": "half"}, "label_rule out of range; expected flight or descent; got half"),
        ({"seed": -1}, "seed out of range; expected at least 0; got -1"),
        ({"shortest": 9}, "shortest and longest out of range; expected 10 <= .* <= 100000; got 9 and 1200 steps"),
        ({"longest": 599}, "shortest and longest out of range; .*; got 600 and 599 steps"),
        ({"shortest": 10**400, "longest": 10**400}, "shortest and longest out of range"),
        ({"step": 0.0}, "step out of range; expected 0.001 to 3600 s; got 0.0"),
        ({"step": 1e-9}, "step out of range"),
        ({"step": 3601.0}, "step out of range"),
        ({"lowest_apogee": 120_001.0}, "apogees out of range; expected 1 <= .*; got 120001.0 and 120000.0 m"),
        ({"highest_apogee": 1e9}, "apogees out of range"),
        ({"noise": nan}, "noise out of range; expected 0 to 1; got nan"),
        ({"noise": 1.5}, "noise out of range"),
        (
            {"launch_site": (100.0, 500.0)},
            r"launch_site out of range; expected latitude within 80 .*; got \(100.0, 500",
        ),
        ({"launch_site": (0.0, nan)}, "launch_site out of range"),
        ({"target": (0.0, -351.0)}, "target out of range; expected .* longitude within 350 degrees; got"),
        ({"target": (inf, 0.0)}, "target out of range"),
        ({"first_launch": nan}, "first_launch out of range; expected at least 0 s; got nan"),
        ({"first_launch": -1.0}, "first_launch out of range"),
        ({"first_launch": inf}, "first_launch out of range"),
        ({"launch_interval": -1.0}, r"launch_interval out of range; expected at least 0 s, and the .* by 1e\+11 s"),
        ({"launch_interval": nan}, "launch_interval out of range"),
        ({"launch_interval": 2e9}, "launch_interval out of range"),
        ({"sensor": 2**53 + 1}, "sensor out of range; expected -9007199254740992 to 9007199254740992; got 90"),
    ],
)
def test_a_setting_out_of_its_range_is_named_with_what_was_expected(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        replace(TrapezoidConfig(), **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"launch_site": (80.0, -350.0), "target": (-80.0, 350.0), "noise": 1.0},
        {"step": 0.001, "first_launch": 9.9e10},
        {"step": 3600.0, "first_launch": 0.0, "launch_interval": 0.0},
        {"lowest_apogee": 1.0, "highest_apogee": 1e7, "sensor": 2**53},
    ],
)
def test_at_the_ends_of_the_ranges_every_track_is_read_back(settings: dict[str, Any], tmp_path: Path) -> None:
    config = TrapezoidConfig(tracks=3, **settings)
    path = tmp_path / "ends.parquet"
    write_tracks(path, simulate_trapezoid(config))
    with read_tracks(path, labelled=True) as file:
        assert [track.track_id for track in file] == [0, 1, 2]
    assert file.report.clean
