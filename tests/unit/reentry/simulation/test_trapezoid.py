"""Flights of the trapezoid profile, compared with a direct implementation of the public data's generator."""

from __future__ import annotations

import re
from dataclasses import replace
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from reentry.errors import ConfigError
from reentry.schema import LONGEST_TRACK
from reentry.simulation import TrapezoidConfig, simulate_file, simulate_trapezoid, trapezoid_chunks
from reentry.simulation.trapezoid import TRACKS_PER_CHUNK
from reentry.tracks import read_tracks, write_tracks


def reference(steps: int, apogee: float) -> dict[str, np.ndarray]:
    """Return one noise-free flight, computed as the public generator computes it."""
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


def test_a_noise_free_flight_equals_that_of_the_public_generator() -> None:
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
def test_the_onset_is_exactly_at_eighty_five_percent_rounded_down(steps: int, onset: int) -> None:
    table = simulate_trapezoid(TrapezoidConfig(tracks=1, shortest=steps, longest=steps))
    assert int(table["reentry_phase"].argmax()) == onset
    assert int(table["reentry_phase"].sum()) == steps - onset


def test_the_descent_rule_puts_the_onset_at_the_first_row_below_half_the_apogee() -> None:
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


def test_the_label_rule_changes_only_the_labels() -> None:
    flight = simulate_trapezoid(TrapezoidConfig(tracks=20))
    descent = simulate_trapezoid(TrapezoidConfig(tracks=20, label_rule="descent"))
    pd.testing.assert_frame_equal(flight.drop(columns="reentry_phase"), descent.drop(columns="reentry_phase"))
    assert not flight["reentry_phase"].equals(descent["reentry_phase"])


def test_lengths_and_apogees_cover_their_ranges() -> None:
    table = simulate_trapezoid(TrapezoidConfig(tracks=2000, noise=0.0))
    flights = table.groupby("track_id")["altitude"].agg(["size", "max"])
    assert (flights["size"].min(), flights["size"].max()) == (600, 1200)
    assert flights["size"].mean() == pytest.approx(900, abs=15)
    assert 100_000 <= flights["max"].min() < 100_100
    assert 119_900 < flights["max"].max() <= 120_000
    assert flights["max"].mean() == pytest.approx(110_000, abs=500)


@pytest.mark.parametrize("column", ["latitude", "longitude", "altitude", "radiometric_intensity"])
def test_noise_is_gaussian_with_the_configured_standard_deviation(column: str) -> None:
    config = TrapezoidConfig(tracks=100)
    noise = simulate_trapezoid(config)[column] - simulate_trapezoid(replace(config, noise=0.0))[column]
    assert noise.mean() == pytest.approx(0.0, abs=2e-4)
    assert noise.std() == pytest.approx(0.01, rel=0.02)
    assert noise.abs().gt(0.02).mean() == pytest.approx(0.0455, abs=0.004)


def test_only_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    first, again, other = tmp_path / "a.csv", tmp_path / "b.csv", tmp_path / "c.csv"
    for path, seed in ((first, 7), (again, 7), (other, 8)):
        simulate_file(path, tracks=3, seed=seed)
    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes() != other.read_bytes()


def test_the_first_tracks_do_not_depend_on_the_number_of_tracks() -> None:
    many = simulate_trapezoid(TrapezoidConfig(tracks=TRACKS_PER_CHUNK + 3, shortest=10, longest=20))
    for tracks in (1, 5, TRACKS_PER_CHUNK, TRACKS_PER_CHUNK + 1):
        few = simulate_trapezoid(TrapezoidConfig(tracks=tracks, shortest=10, longest=20))
        pd.testing.assert_frame_equal(few, many.iloc[: len(few)])


def test_chunks_contain_a_limited_number_of_whole_tracks() -> None:
    chunks = list(trapezoid_chunks(TrapezoidConfig(tracks=2 * TRACKS_PER_CHUNK + 1, shortest=10, longest=20)))
    tracks = [chunk["track_id"].unique().tolist() for chunk in chunks]
    assert [len(ids) for ids in tracks] == [TRACKS_PER_CHUNK, TRACKS_PER_CHUNK, 1]
    assert [i for ids in tracks for i in ids] == list(range(2 * TRACKS_PER_CHUNK + 1))


def test_omitting_labels_removes_the_label_column_and_keeps_the_measurements() -> None:
    labelled = simulate_trapezoid(TrapezoidConfig(tracks=3))
    unlabelled = simulate_trapezoid(TrapezoidConfig(tracks=3, labels=False))
    pd.testing.assert_frame_equal(unlabelled, labelled.drop(columns="reentry_phase"))


def test_chunks_of_long_tracks_contain_fewer_but_identical_tracks() -> None:
    config = TrapezoidConfig(tracks=5, shortest=10, longest=LONGEST_TRACK)
    chunks = list(trapezoid_chunks(config))
    assert [chunk["track_id"].unique().tolist() for chunk in chunks] == [[0, 1, 2], [3, 4]]
    fewer = simulate_trapezoid(replace(config, tracks=2))
    pd.testing.assert_frame_equal(chunks[0].iloc[: len(fewer)], fewer)


@pytest.mark.parametrize(
    ("settings", "name", "expected", "got"),
    [
        ({"tracks": 0}, "tracks", "at least 1", "0"),
        ({"label_rule": "half"}, "label_rule", "flight or descent", "half"),
        ({"seed": -1}, "seed", "at least 0", "-1"),
        ({"shortest": 9}, "shortest and longest", "10 <= .* <= 100000", "9 and 1200 steps"),
        ({"longest": 599}, "shortest and longest", "", "600 and 599 steps"),
        ({"shortest": 10**400, "longest": 10**400}, "shortest and longest", "", ""),
        ({"step": 0.0}, "step", "0.001 to 3600 s", "0.0"),
        ({"step": 1e-9}, "step", "", ""),
        ({"step": 3601.0}, "step", "", ""),
        ({"lowest_apogee": 120_001.0}, "apogees", "1 <= ", "120001.0 and 120000.0 m"),
        ({"highest_apogee": 1e9}, "apogees", "", ""),
        ({"noise": nan}, "noise", "0 to 1", "nan"),
        ({"noise": 1.5}, "noise", "", ""),
        ({"launch_site": (100.0, 500.0)}, "launch_site", "latitude within 80 ", r"\(100.0, 500"),
        ({"launch_site": (0.0, nan)}, "launch_site", "", ""),
        ({"target": (0.0, -351.0)}, "target", ".* longitude within 350 degrees", ""),
        ({"target": (inf, 0.0)}, "target", "", ""),
        ({"first_launch": nan}, "first_launch", "at least 0 s", "nan"),
        ({"first_launch": -1.0}, "first_launch", "", ""),
        ({"first_launch": inf}, "first_launch", "", ""),
        ({"launch_interval": -1.0}, "launch_interval", r"at least 0 s, and the .* by 1e\+11 s", ""),
        ({"launch_interval": nan}, "launch_interval", "", ""),
        ({"launch_interval": 2e9}, "launch_interval", "", ""),
        ({"sensor": 2**53 + 1}, "sensor", "-9007199254740992 to 9007199254740992", "90"),
    ],
)
def test_a_setting_out_of_range_is_reported_with_the_expected_range(
    settings: dict[str, Any], name: str, expected: str, got: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{name} out of range") as error:
        replace(TrapezoidConfig(), **settings)
    assert re.match(expected, error.value.expected or "")
    assert re.match(got, error.value.got or "")


@pytest.mark.parametrize(
    "settings",
    [
        {"launch_site": (80.0, -350.0), "target": (-80.0, 350.0), "noise": 1.0},
        {"step": 0.001, "first_launch": 9.9e10},
        {"step": 3600.0, "first_launch": 0.0, "launch_interval": 0.0},
        {"lowest_apogee": 1.0, "highest_apogee": 1e7, "sensor": 2**53},
    ],
)
def test_tracks_with_settings_at_the_limits_are_read_back_without_faults(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    config = TrapezoidConfig(tracks=3, **settings)
    path = tmp_path / "ends.parquet"
    write_tracks(path, simulate_trapezoid(config))
    with read_tracks(path, labelled=True) as file:
        assert [track.track_id for track in file] == [0, 1, 2]
    assert file.report.clean
