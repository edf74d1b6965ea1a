"""Files and lines of JSON become scans in order of time; bad lines are reported, counted and skipped."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.stream.source import JsonLines, Scan, file_scans, measurement_of, split
from reentry.schema import LARGEST_SCAN, MEASUREMENT_COLUMNS
from reentry.simulation import TrapezoidConfig, simulate_trapezoid
from reentry.tracks import read_tracks, write_tracks


def line(**changes: Any) -> bytes:
    """A line for a measurement; a value of ... leaves its field out."""
    fields = dict.fromkeys(MEASUREMENT_COLUMNS, 1.5) | {"sensor_id": 3, "track_id": 7, "more": "ignored"} | changes
    return json.dumps({name: value for name, value in fields.items() if value is not ...}).encode()


def scan_of(timestamps: list[float]) -> Scan:
    rows = np.zeros((len(timestamps), len(MEASUREMENT_COLUMNS)))
    rows[:, 0] = timestamps
    return Scan(np.arange(len(timestamps)), rows)


def test_a_line_is_a_measurement_in_the_order_of_the_schema() -> None:
    track_id, row = measurement_of(line(timestamp=12.5, sensor_id=4, altitude=1000))
    assert track_id == 7
    assert dict(zip(MEASUREMENT_COLUMNS, row, strict=True)) == {
        **dict.fromkeys(MEASUREMENT_COLUMNS, 1.5),
        "timestamp": 12.5,
        "sensor_id": 4.0,
        "altitude": 1000.0,
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "longer than"),
        (b"[1, 2]", "expected a JSON object"),
        (line(altitude=...), "without altitude"),
        (line(track_id=1.5), "track_id: expected an int64, got 1.5"),
        (line(track_id=True), "track_id: expected an int64, got true"),
        (line(track_id=2**63), "track_id: expected an int64"),
        (line(latitude=None), "latitude: expected a number, got null"),
        (line(latitude="12"), 'latitude: expected a number, got "12"'),
    ],
)
def test_a_bad_line_is_refused_with_its_reason(text: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        measurement_of(text)


def test_values_out_of_range_are_left_to_the_server() -> None:
    row = measurement_of(line(altitude=float("nan"), latitude=10**400))[1]
    assert np.isnan(row[MEASUREMENT_COLUMNS.index("altitude")])
    assert np.isinf(row[MEASUREMENT_COLUMNS.index("latitude")])


def test_bad_lines_are_reported_with_their_number_and_the_others_are_read(caplog: pytest.LogCaptureFixture) -> None:
    lines = JsonLines(-1)
    first = lines.parse([line(track_id=1), b"oops", b"", line(track_id=2)])
    second = lines.parse([b"{}", line(track_id=3)])
    assert first is not None
    assert second is not None
    assert (first.track_ids.tolist(), second.track_ids.tolist()) == ([1, 2], [3])
    assert lines.bad == 2
    assert [message.split(":")[0] for message in caplog.messages] == [
        "standard input, line 2",
        "standard input, line 5",
    ]
    assert lines.parse([b"oops"]) is None


def test_a_flood_of_bad_lines_is_counted_with_few_reports(caplog: pytest.LogCaptureFixture) -> None:
    lines = JsonLines(-1)
    assert lines.parse([b"oops"] * 1_000) is None
    assert lines.bad == 1_000
    assert len(caplog.messages) == 11


def test_lines_of_a_pipe_are_read_as_they_arrive_wherever_they_are_cut() -> None:
    text = b"".join(line(track_id=number) + b"\n" for number in range(40)) + line(track_id=40)
    reading, writing = os.pipe()

    def write() -> None:
        with open(writing, "wb", buffering=0) as pipe:  # noqa: PTH123  # a descriptor
            for start in range(0, len(text), 37):
                pipe.write(text[start : start + 37])

    async def read() -> list[int]:
        return [track for scan in [scan async for scan in JsonLines(reading).scans()] for track in scan.track_ids]

    thread = threading.Thread(target=write)
    thread.start()
    assert asyncio.run(read()) == list(range(41))
    thread.join()
    os.close(reading)


def test_a_regular_file_is_read_as_standard_input_too(tmp_path: Path) -> None:
    (tmp_path / "lines.jsonl").write_bytes(b"".join(line(track_id=number) + b"\n" for number in range(2_000)))
    descriptor = os.open(tmp_path / "lines.jsonl", os.O_RDONLY)

    async def read() -> list[int]:
        return [track for scan in [scan async for scan in JsonLines(descriptor).scans()] for track in scan.track_ids]

    assert asyncio.run(read()) == list(range(2_000))
    os.close(descriptor)


def test_measurements_of_the_same_interval_form_a_scan() -> None:
    scan = scan_of([10.0, 10.0, 10.3, 10.5, 11.0, 11.2, 13.0])
    assert [part.track_ids.tolist() for part in split(scan, 0.5)] == [[0, 1, 2], [3], [4, 5], [6]]
    assert [part.track_ids.tolist() for part in split(scan, 0.0)] == [[0, 1], [2], [3], [4], [5], [6]]


def test_a_scan_is_never_larger_than_the_server_accepts() -> None:
    parts = list(split(scan_of([5.0] * (2 * LARGEST_SCAN + 1)), 0.5))
    assert [len(part.rows) for part in parts] == [LARGEST_SCAN, LARGEST_SCAN, 1]


def test_a_file_gives_each_measurement_once_in_order_of_time(tmp_path: Path) -> None:
    table = simulate_trapezoid(TrapezoidConfig(tracks=4, shortest=30, longest=50, seed=1))
    write_tracks(tmp_path / "tracks.csv", table)
    with read_tracks(tmp_path / "tracks.csv") as file:
        scans = list(file_scans(file, 0.5))
        expected = {track.track_id: track.measurements for track in file}
    rows = np.concatenate([scan.rows for scan in scans])
    track_ids = np.concatenate([scan.track_ids for scan in scans])
    assert (np.diff(rows[:, 0]) >= 0.0).all()
    for track, measurements in expected.items():
        np.testing.assert_array_equal(rows[track_ids == track], measurements)


def test_a_scan_is_split_by_sensor_and_invalid_sensors_are_together() -> None:
    scan = scan_of([1.0] * 5)
    scan.rows[:, 5] = [2.0, 1.0, np.nan, 2.0, np.inf]
    parts = {sensor: part.track_ids.tolist() for sensor, part in scan.by_sensor()}
    assert parts == {-1: [2, 4], 1: [1], 2: [0, 3]}
