"""Refined onsets on the real server: those of this process, the same for whole tracks, scans and streams."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tritonclient.grpc as triton

from client.predict import PredictConfig, predict_file
from client.retry import RetryConfig
from client.stream import Alert, Feed, FeedConfig, Refinement
from reentry.features.groups import ORBIT
from reentry.features.track import track_features
from reentry.refinement import RefinedOnset, refined_onset
from reentry.schema import (
    ENSEMBLE,
    FEATURES,
    MEASUREMENT_COLUMNS,
    REENTRY_FAST,
    REENTRY_STREAM,
    REENTRY_TRACK,
    TRACK_MONITOR,
)
from reentry.serving import EmbeddedServer
from reentry.tracks import read_tracks
from tests.conftest import copy_repository, on_free_ports
from tests.integration.test_serving import request_inputs
from tests.orbit import PRIOR, labelled_flights, write_reference
from tests.toy_model import write_watching_model

TRACKS = 6
PATIENT = FeedConfig(retry=RetryConfig(patience=120.0, first_delay=0.02, longest_delay=0.2))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared: read only. The ensemble and the model of scans with a network that uses the orbit filter."""
    folder = copy_repository(tmp_path_factory.mktemp("refined"))
    for model in (REENTRY_TRACK, TRACK_MONITOR, REENTRY_FAST, REENTRY_STREAM):
        shutil.rmtree(folder / model.name)
    write_watching_model(folder / "reentry_lstm" / "1" / "model.onnx", version=1, step=False)
    write_watching_model(folder / "scan_step" / "1" / "model.onnx", version=1, step=True)
    write_reference(folder / "reentry_lstm" / "1", PRIOR)
    return folder


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(on_free_ports(repository)) as running:
        yield running


@cache
def flights() -> list[np.ndarray]:
    return [flight for flight, _, _ in labelled_flights()[:TRACKS]]


def alarm_of(features: np.ndarray) -> int | None:
    """First step at which the network of these tests gives a probability of at least a half."""
    known, factor, pressure = (
        features[:, FEATURES.index(name)] for name in ("orbit_known", "orbit_drag_factor", "orbit_peak_pressure")
    )
    begun = (known > 0.0) & (pressure + np.log10(np.maximum(factor, 1e-6)) >= np.log10(980.665))
    return int(begun.argmax()) if begun.any() else None


def expected_of(flight: np.ndarray) -> tuple[float, RefinedOnset] | None:
    """Causal and refined onset of a flight, computed in this process; None without an onset."""
    features = track_features(flight, groups=frozenset([ORBIT]))
    alarm = alarm_of(features)
    if alarm is None:
        return None
    found = refined_onset(features, flight[:, 0], alarm, PRIOR)
    assert found is not None
    return float(flight[alarm, 0]), found


@cache
def expected() -> list[tuple[float, RefinedOnset]]:
    found = [expected_of(flight) for flight in flights()]
    return [each for each in found if each is not None]


def test_the_ensemble_refines_onsets_as_this_process_does(server: EmbeddedServer) -> None:
    assert len(expected()) == TRACKS
    early = flights()[0][:100]  # still rising
    tracks = [*flights(), early]
    longest = max(map(len, tracks))
    padded = np.stack([np.pad(track, [(0, longest - len(track)), (0, 0)], mode="edge") for track in tracks])
    with triton.InferenceServerClient(server.grpc_url) as client:
        answer = client.infer(ENSEMBLE.name, request_inputs(padded, list(map(len, tracks))))
    got = np.concatenate(
        [
            answer.as_numpy(name)
            for name in ("onset_timestamp", "refined_onset_timestamp", "refined_onset_deviation", "hindsight_seconds")
        ],
        axis=1,
    )
    np.testing.assert_array_equal(got[:-1], [(causal, *refined) for causal, refined in expected()])
    assert got[-1].tolist() == [-1.0] * 4


async def stream(url: str, disturb: Callable[[int, Feed], Awaitable[None]] | None = None) -> list[Alert | Refinement]:
    """Send all flights, a step of each in a scan, and return what the feed gave."""
    events: list[Alert | Refinement] = []
    feed = Feed("radar", [f"grpc://{url}"], config=PATIENT, on_alert=events.append, on_refinement=events.append)
    async with feed:
        for step in range(max(map(len, flights()))):
            if disturb is not None:
                await disturb(step, feed)
            ids = [number for number, flight in enumerate(flights()) if step < len(flight)]
            await feed.send(np.array(ids), np.stack([flights()[number][step] for number in ids]))
    return events


def assert_refines_as_whole_tracks(events: list[Alert | Refinement]) -> None:
    """Each alert is followed by its refinements, once each, of which the last is that of the whole track."""
    for track, (causal, refined) in enumerate(expected()):
        alert, *refinements = [event for event in events if event.track_id == track]
        assert isinstance(alert, Alert)
        assert alert.onset_timestamp == causal
        hindsights = []
        for event in refinements:
            assert isinstance(event, Refinement)
            assert (event.onset_timestamp, event.model_version) == (causal, 1)
            hindsights.append(event.hindsight_seconds)
        times = flights()[track][:, 0] - causal
        due = [float(times[times >= limit][0]) for limit in (2.0, 5.0, 10.0)]
        assert hindsights == [*sorted(set(due)), refined.hindsight]
        last = refinements[-1]
        assert isinstance(last, Refinement)
        assert (last.refined_onset_timestamp, last.refined_onset_deviation) == refined[:2]


def test_a_stream_refines_each_alert_and_ends_with_the_refined_onset_of_the_whole_track(
    server: EmbeddedServer,
) -> None:
    assert_refines_as_whole_tracks(asyncio.run(stream(server.grpc_url)))


def test_no_refinement_is_lost_or_repeated_when_the_server_is_killed_and_started_again(repository: Path) -> None:
    first_alarm = int(np.searchsorted(flights()[0][:, 0], expected()[0][0]))
    with ExitStack() as servers:
        first = servers.enter_context(EmbeddedServer(on_free_ports(repository)))
        again = replace(first.config, grpc_port=int(first.grpc_url.rpartition(":")[2]))

        used: list[Feed] = []

        def start_again() -> None:
            first.stop()  # waits until its ports are free
            servers.enter_context(EmbeddedServer(again))

        async def kill(step: int, feed: Feed) -> None:
            used.append(feed)
            if step == first_alarm + 7:
                os.kill(first.process_id, signal.SIGKILL)
                asyncio.get_running_loop().run_in_executor(None, start_again)

        assert_refines_as_whole_tracks(asyncio.run(stream(first.grpc_url, kill)))
    assert used[0].statistics.replays["lost_server"] == TRACKS


def test_the_files_of_a_run_and_the_prediction_log_have_the_refined_onset(
    server: EmbeddedServer, tmp_path: Path
) -> None:
    tables = [
        pd.DataFrame(flight, columns=list(MEASUREMENT_COLUMNS)).assign(track_id=number)
        for number, flight in enumerate(flights())
    ]
    pd.concat(tables).astype({"sensor_id": np.int64}).to_csv(tmp_path / "tracks.csv", index=False)
    wanted = {}
    with read_tracks(tmp_path / "tracks.csv", labelled=False) as file:
        for track in file:  # gaps are filled
            found = expected_of(np.asarray(track.measurements))
            assert found is not None
            wanted[track.track_id] = found[0], *found[1]
    assert wanted
    columns = ["onset_timestamp", "refined_onset_timestamp", "refined_onset_deviation", "hindsight_seconds"]
    before = len(server.prediction_log.read_text().splitlines())
    config = PredictConfig(source=tmp_path / "tracks.csv", out=tmp_path / "out", url=f"grpc://{server.grpc_url}")
    predict_file(config)
    onsets = pd.read_csv(config.out / "onsets.csv", float_precision="round_trip").set_index("track_id")
    logs = [
        [json.loads(line) for line in lines]
        for lines in (
            (config.out / "inference.jsonl").read_text().splitlines(),
            server.prediction_log.read_text().splitlines()[before:],
        )
    ]
    for track_id, values in wanted.items():
        assert tuple(onsets.loc[track_id, columns]) == values
        for log in logs:
            (line,) = [line for line in log if line["track_id"] == track_id]
            assert tuple(line[column] for column in columns) == values
