"""Simulated flights against the form of the public data, written out step by step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reentry.errors import ConfigError
from reentry.simulation import TrapezoidConfig, simulate_file, simulate_trapezoid, trapezoid_chunks
from reentry.simulation.trapezoid import TRACKS_PER_CHUNK


def reference(steps: int, apogee: float) -> dict[str, np.ndarray]:
    """One flight without noise, as the public data's form says it, with the shares in whole numbers."""
    climb, level_end = steps * 30 // 100, steps * 70 // 100
    altitude = np.concatenate(
        [
            np.linspace(0, apogee, climb),
            np.full(level_end - climb, apogee),
            np.linspace(apogee, 0, steps - level_end),
        ]
    )
    return {
        "latitude": np.linspace(64.135, 40.015, steps),
        "longitude": np.linspace(-21.895, -105.27, steps),
        "altitude": altitude,
        "radiometric_intensity": altitude / 120_000,
        "reentry_phase": (np.arange(steps) >= steps * 85 // 100).astype(int),
    }


def test_a_flight_without_noise_has_the_form_of_the_public_data() -> None:
    table = simulate_trapezoid(TrapezoidConfig(tracks=40, noise=0.0, seed=5))
    assert table["track_id"].nunique() == 40
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


@pytest.mark.parametrize(
    ("setting", "value", "named"),
    [
        ("tracks", 0, "tracks"),
        ("seed", -1, "seed"),
        ("shortest", 9, "shortest"),
        ("longest", 599, "longest"),
        ("step", 0.0, "step"),
        ("lowest_apogee", 120_001.0, "apogee"),
        ("noise", float("nan"), "noise"),
    ],
)
def test_a_setting_out_of_its_range_is_named_with_what_was_expected(setting: str, value: float, named: str) -> None:
    with pytest.raises(ConfigError, match=rf"{named}.* out of range; expected .*; got .*{value}"):
        replace(TrapezoidConfig(), **{setting: value})
