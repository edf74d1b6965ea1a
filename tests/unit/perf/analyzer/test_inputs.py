"""Input files of perf_analyzer."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np

from perf.analyzer.inputs import INPUTS, LIVE_INPUTS, LIVE_TRACKS, requests_of, write_inputs
from perf.scoring import draw_flights


def rows_of(path: Path, **settings: Any) -> list[dict[str, Any]]:
    """Tensors of each track of a file that is written with these settings."""
    write_inputs(path, **{"inputs": INPUTS, "batch": 1, "length": "20", "seed": 3} | settings)
    types = {"track_id": np.int64, "track_length": np.int32, "measurements": np.float64}
    return [
        {
            name: np.frombuffer(base64.b64decode(tensor["b64"]), types[name]).reshape(tensor["shape"])
            for name, tensor in row.items()
        }
        for row in json.loads(path.read_text())["data"]
    ]


def test_the_tracks_of_a_file_are_simulated_flights(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "in.json")
    flights = draw_flights(len(rows), 20, seed=3)
    for row, flight in zip(rows, flights, strict=True):
        np.testing.assert_array_equal(row["measurements"], flight.measurements)
        assert row["track_length"].tolist() == [20]
        assert row["track_id"].tolist() == [flight.track_id]


def test_tracks_of_a_range_have_different_lengths(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "in.json", length="20-60")
    lengths = [int(row["track_length"][0]) for row in rows]
    assert lengths == [len(row["measurements"]) for row in rows]
    assert min(lengths) >= 20
    assert max(lengths) <= 60
    assert len(set(lengths)) > 5


def test_tracks_of_a_batch_are_padded_to_one_shape(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "in.json", length="20-60", batch=8)
    assert len(rows) % 8 == 0
    (shape,) = {row["measurements"].shape for row in rows}
    assert shape == (max(int(row["track_length"][0]) for row in rows), 6)


def test_requests_are_the_tracks_of_the_file_in_turn(tmp_path: Path) -> None:
    for batch in (1, 8):
        rows = rows_of(tmp_path / "in.json", length="20-60", batch=batch)
        requests = requests_of(batch=batch, length="20-60", seed=3)
        assert {len(measurements) for measurements, _ in requests} == {batch}
        tracks = [own for measurements, _ in requests for own in measurements]
        lengths = [steps for _, own in requests for steps in own.tolist()]
        assert lengths == [int(row["track_length"][0]) for row in rows]
        for track, row in zip(tracks, rows, strict=True):
            np.testing.assert_array_equal(track, row["measurements"])


def test_a_model_gets_only_the_inputs_that_it_has(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "in.json", inputs=("measurements", "track_length"))
    assert all(row.keys() == {"measurements", "track_length"} for row in rows)


def test_a_live_track_is_a_list_of_single_measurements(tmp_path: Path) -> None:
    write_inputs(tmp_path / "in.json", inputs=LIVE_INPUTS, batch=1, length="20", seed=3)
    tracks = json.loads((tmp_path / "in.json").read_text())["data"]
    flights = draw_flights(len(tracks), 20, seed=3)
    assert len(tracks) == LIVE_TRACKS
    for steps, flight in zip(tracks, flights, strict=True):
        rows = [np.frombuffer(base64.b64decode(step["measurement"]["b64"])) for step in steps]
        np.testing.assert_array_equal(rows, flight.measurements)
        assert steps[0]["measurement"]["shape"] == [6]
