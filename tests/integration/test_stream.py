"""Live tracks on the real server: the alerts of the whole tracks, whatever happens to the server."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton

from client.retry import RetryConfig
from client.stream import Alert, Answers, Feed, FeedConfig
from client.stream.feed import Mode
from client.stream.servers import ranked
from reentry.schema import MEASUREMENT_COLUMNS
from reentry.serving import EmbeddedServer
from reentry.simulation import TrapezoidConfig, simulate_trapezoid
from tests.conftest import on_free_ports
from tests.live_models import write_live_models
from tests.unit.export.test_stream_graph import default
from tests.unit.export.test_track_graph import run

PATIENT = RetryConfig(patience=120.0, first_delay=0.02, longest_delay=0.2)
MODES: tuple[Mode, ...] = ("scan", "tracks")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared: read only. The models of live tracks."""
    return write_live_models(tmp_path_factory.mktemp("live"))


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(on_free_ports(repository)) as running:
        yield running


@cache
def flights() -> dict[int, np.ndarray]:
    table = simulate_trapezoid(TrapezoidConfig(tracks=5, shortest=60, longest=100, seed=3))
    table = table.sort_values(["track_id", "timestamp"], kind="stable")
    columns = list(MEASUREMENT_COLUMNS)
    return {int(track): rows[columns].to_numpy(np.float64) for track, rows in table.groupby("track_id")}


@cache
def scans() -> list[tuple[np.ndarray, np.ndarray]]:
    """Measurements of all flights, those of the same step together."""
    longest = max(map(len, flights().values()))
    steps = [{track: rows[step] for track, rows in flights().items() if step < len(rows)} for step in range(longest)]
    return [(np.array(list(step)), np.stack(list(step.values()))) for step in steps]


@cache
def whole_tracks() -> dict[int, tuple[np.ndarray, float]]:
    """Probability of each step, and timestamp of the onset, from the graph of whole tracks."""
    found = {}
    for track, rows in flights().items():
        probability, _, _, onset_timestamp, _ = run(default, rows[None])
        found[track] = probability[0], float(onset_timestamp[0, 0])
    return found


def assert_equals_the_whole_tracks(answers: list[Answers], alerts: list[Alert]) -> None:
    for track, (probability, _) in whole_tracks().items():
        got = [answer.probability[ids == track] for answer, (ids, _) in zip(answers, scans(), strict=True)]
        np.testing.assert_allclose(np.concatenate(got), probability, rtol=0.0, atol=1e-5)
    expected = sorted((track, onset) for track, (_, onset) in whole_tracks().items() if onset >= 0.0)
    assert len(expected) >= 3
    assert sorted((alert.track_id, alert.onset_timestamp) for alert in alerts) == expected
    assert all(alert.latency_ms > 0.0 and alert.model_version == 1 for alert in alerts)


async def stream(
    urls: list[str],
    mode: Mode,
    disturb: Callable[[int, Feed], Awaitable[None]] | None = None,
    name: str = "",
    timeout: float = 30.0,
) -> tuple[list[Answers], list[Alert], Feed]:
    """Send all scans, and call `disturb` with the number of each scan before it."""
    answers: list[asyncio.Task[Answers]] = []
    alerts: list[Alert] = []
    config = FeedConfig(mode=mode, timeout=timeout, retry=PATIENT)
    async with Feed(name or f"feed-{mode}", urls, config=config, on_alert=alerts.append) as feed:
        for number, (ids, rows) in enumerate(scans()):
            if disturb is not None:
                await disturb(number, feed)
            answers.append(asyncio.ensure_future(feed.send(ids, rows)))
            await asyncio.sleep(0)
            if number % 4 == 3:  # a few scans are in flight at once
                await answers[-1]
        return await asyncio.gather(*answers), alerts, feed


@pytest.mark.parametrize("mode", MODES)
def test_a_feed_gives_the_probabilities_and_alerts_of_the_whole_tracks(server: EmbeddedServer, mode: Mode) -> None:
    answers, alerts, feed = asyncio.run(stream([f"grpc://{server.grpc_url}"], mode))
    assert_equals_the_whole_tracks(answers, alerts)
    assert feed.statistics.updates == sum(map(len, flights().values()))
    assert not feed.statistics.replays
    assert not feed.statistics.rejected


@pytest.mark.parametrize("mode", MODES)
def test_no_alert_is_lost_or_repeated_when_the_server_is_killed_and_started_again(repository: Path, mode: Mode) -> None:
    with ExitStack() as servers:
        first = servers.enter_context(EmbeddedServer(on_free_ports(repository)))
        again = replace(first.config, grpc_port=int(first.grpc_url.rpartition(":")[2]))

        def start_again() -> None:
            first.stop()  # waits until its ports are free
            servers.enter_context(EmbeddedServer(again))

        async def kill(number: int, _: Feed) -> None:
            if number == 42:
                os.kill(first.process_id, signal.SIGKILL)
                asyncio.get_running_loop().run_in_executor(None, start_again)

        answers, alerts, feed = asyncio.run(stream([f"grpc://{first.grpc_url}"], mode, kill))
    assert_equals_the_whole_tracks(answers, alerts)
    assert feed.statistics.replays["lost_server"] >= len(flights())
    assert feed.statistics.replayed_measurements >= 30 * len(flights())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
def test_another_server_takes_over_when_the_first_is_lost(
    server: EmbeddedServer, repository: Path, mode: Mode, number: signal.Signals
) -> None:
    with EmbeddedServer(on_free_ports(repository)) as first:
        addresses = [first.grpc_url, server.grpc_url]
        names = (f"radar-{mode}-{number}-{attempt}" for attempt in range(100))
        name = next(each for each in names if ranked(each, addresses)[0] == first.grpc_url)
        used = []

        async def lose(step: int, feed: Feed) -> None:
            used.append(feed.server)
            if step == 42:
                os.kill(first.process_id, number)

        try:
            urls = [f"grpc://{each}" for each in addresses]
            answers, alerts, feed = asyncio.run(stream(urls, mode, lose, name, timeout=10.0))
        finally:
            os.kill(first.process_id, signal.SIGCONT)
    assert_equals_the_whole_tracks(answers, alerts)
    assert (used[41], used[-1]) == (first.grpc_url, server.grpc_url)
    assert feed.statistics.replays["lost_server"] >= len(flights())


def end_sequence(server: EmbeddedServer, model: str, correlation_id: str) -> None:
    """End a sequence of a feed with another client."""
    rows = {"reentry_stream": ("measurement", (1, 6)), "reentry_scan": ("measurements", (1, 6))}
    inputs = []
    if model == "reentry_scan":
        inputs.append(triton.InferInput("track_id", [1], "INT64").set_data_from_numpy(np.zeros(1, np.int64)))
    name, shape = rows[model]
    inputs.append(triton.InferInput(name, list(shape), "FP64").set_data_from_numpy(np.full(shape, np.nan)))
    with triton.InferenceServerClient(server.grpc_url) as client:
        client.infer(model, inputs, sequence_id=correlation_id, sequence_end=True)


@pytest.mark.parametrize("mode", MODES)
def test_a_sequence_that_the_server_no_longer_has_is_replayed(server: EmbeddedServer, mode: Mode) -> None:
    name = f"dropped-{mode}"

    async def end(number: int, feed: Feed) -> None:
        if number == 42:
            sequence = feed._state.sequence
            model, name = ("reentry_scan", sequence) if mode == "scan" else ("reentry_stream", f"{sequence}/2")
            await asyncio.to_thread(end_sequence, server, model, name)

    answers, alerts, feed = asyncio.run(stream([f"grpc://{server.grpc_url}"], mode, end, name))
    assert_equals_the_whole_tracks(answers, alerts)
    assert feed.statistics.replays == {"restarted": 1 if mode == "tracks" else len(flights())}


@pytest.mark.parametrize("mode", MODES)
def test_two_feeds_with_one_name_do_not_affect_each_other(server: EmbeddedServer, mode: Mode) -> None:
    async def both() -> list[tuple[list[Answers], list[Alert], Feed]]:
        return await asyncio.gather(*(stream([f"grpc://{server.grpc_url}"], mode, name="same") for _ in range(2)))

    for answers, alerts, feed in asyncio.run(both()):
        assert_equals_the_whole_tracks(answers, alerts)
        assert not feed.statistics.replays
        assert not feed.statistics.rejected


@pytest.mark.parametrize("mode", MODES)
def test_invalid_late_and_repeated_measurements_are_counted_and_change_nothing(
    server: EmbeddedServer, mode: Mode
) -> None:
    track, rows = next(iter(flights().items()))
    invalid, late = rows[30].copy(), rows[10] + [0.1, 0.0, 0.0, 5.0, 0.0, 0.0]
    invalid[3] = np.nan
    sent = np.concatenate([rows[:30], [invalid, late, rows[29]], rows[30:]])
    alerts: list[Alert] = []

    async def send() -> tuple[Answers, Feed]:
        config = FeedConfig(mode=mode, retry=PATIENT)
        async with Feed(f"bad-{mode}", [f"grpc://{server.grpc_url}"], config=config, on_alert=alerts.append) as feed:
            return await feed.send(np.full(len(sent), track), sent), feed

    answers, feed = asyncio.run(send())
    good = np.delete(np.arange(len(sent)), [30, 31, 32])
    probability, onset = whole_tracks()[track]
    np.testing.assert_allclose(answers.probability[good], probability, rtol=0.0, atol=1e-5)
    assert np.flatnonzero(answers.accepted == 0).tolist() == [30, 31, 32]
    assert feed.statistics.rejected == {"invalid": 1, "late": 2}
    assert [alert.onset_timestamp for alert in alerts] == [onset]


def with_setting(repository: Path, model: str, setting: str, value: int) -> None:
    """Replace a number in the configuration of a model."""
    config = repository / model / "config.pbtxt"
    text, changes = re.subn(rf"{setting}: \d+", f"{setting}: {value}", config.read_text())
    assert changes == 1
    config.write_text(text)


def test_a_silent_track_is_dropped_and_its_number_begins_a_new_track(repository: Path, tmp_path: Path) -> None:
    idle = 5.0
    copied = shutil.copytree(repository, tmp_path / "model_repository")
    for model in ("reentry_scan", "reentry_stream"):
        with_setting(copied, model, "max_sequence_idle_microseconds", round(1e6 * idle))
    rows = next(iter(flights().values()))

    async def send(url: str, mode: Mode) -> tuple[Answers, Feed]:
        config = FeedConfig(mode=mode, idle=idle, retry=PATIENT)
        async with Feed(f"silent-{mode}", [url], config=config) as feed:
            for number in range(5):
                await feed.send([1, 2], rows[[number, number]])
            number, begun = 5, time.monotonic()
            while time.monotonic() - begun < 2.0 * idle:  # track 1 is silent
                number += 1
                await feed.send([2], rows[number : number + 1])
                await asyncio.sleep(0.25)
            assert feed.tracks.live_slots.size == 1
            return await feed.send([1] * 5, rows[50:55]), feed

    async def both(url: str) -> list[tuple[Answers, Feed]]:
        return await asyncio.gather(*(send(url, mode) for mode in MODES))

    with EmbeddedServer(on_free_ports(copied)) as server:
        for answers, feed in asyncio.run(both(f"grpc://{server.grpc_url}")):
            expected = run(default, rows[None, 50:55])[0][0]
            np.testing.assert_allclose(answers.probability, expected, rtol=0.0, atol=1e-5)
            assert feed.tracks.begun == 3
            assert not feed.statistics.replays


def test_a_track_beyond_the_slots_of_the_server_is_refused_and_the_others_continue(
    repository: Path, tmp_path: Path
) -> None:
    shutil.copytree(repository / "reentry_stream", tmp_path / "reentry_stream")
    with_setting(tmp_path, "reentry_stream", "max_candidate_sequences", 1)
    rows = next(iter(flights().values()))

    async def send(url: str) -> tuple[Answers, list[Answers]]:
        async with Feed("full", [url], config=FeedConfig(mode="tracks", timeout=10.0, retry=PATIENT)) as feed:
            await feed.send(np.arange(2), rows[[0, 0]])
            too_many = asyncio.ensure_future(feed.send(np.array([9]), rows[:1]))
            others = [await feed.send(np.arange(2), rows[[number, number]]) for number in range(1, 20)]
            return await too_many, others

    with EmbeddedServer(on_free_ports(tmp_path, instances=1)) as server:
        refused, others = asyncio.run(send(f"grpc://{server.grpc_url}"))
    assert "no free slot for a new track within 10 s" in refused.refusals[0]
    assert all(answers.accepted.all() for answers in others)
