"""Live events through real gateway processes: reconnections, slow readers, shutdown, and `reentry stream --gateway`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest

from gateway.accounts.directory import Directory
from gateway.accounts.principal import Scope
from gateway.database.engine import Database
from gateway.database.migrate import migrate
from gateway.settings import GatewaySettings
from reentry.serving import EmbeddedServer
from tests.conftest import on_free_ports
from tests.event_reader import reading
from tests.gateway_servers import (
    GatewayProcess,
    Server,
    new_postgresql_database,
    running_gateway,
)
from tests.integration.test_stream_command import (  # noqa: F401  # fixtures
    DEADLINE,
    expected_alerts,
    running,
    table,
)
from tests.live_models import write_live_models


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway with SQLite and without Triton."""
    with running_gateway(tmp_path_factory.mktemp("events"), triton_url="grpc://127.0.0.1:1") as process:
        yield process


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A Triton with the models of live tracks."""
    repository = write_live_models(tmp_path_factory.mktemp("live"))
    with EmbeddedServer(on_free_ports(repository)) as running_server:
        yield running_server


def client_of(gateway: GatewayProcess, key: str | None = None) -> httpx.Client:
    return httpx.Client(base_url=gateway.url, headers={"Authorization": f"Bearer {key or gateway.key}"}, timeout=30)


def alert_of(track_id: int) -> dict[str, Any]:
    return {
        "event": "alert",
        "track_id": track_id,
        "onset_timestamp": 100.5,
        "detected_at": 101.0,
        "probability": 0.9,
        "latency_ms": 3.0,
    }


def update_of(track_id: int) -> dict[str, Any]:
    place = {"timestamp": 1.0, "latitude": 2.0, "longitude": 3.0, "altitude": 4.0}
    return {"track_id": track_id, "probability": 0.5, "phase": 0, **place}


def key_in(settings: GatewaySettings) -> str:
    """A key for everything in a new account."""

    async def create() -> str:
        database = Database(settings)
        directory = Directory(database, settings)
        account_id = await directory.create_account("range", "premium")
        _, key = await directory.create_key(account_id, name="test", scopes=Scope)
        await database.close()
        return key

    return asyncio.run(create())


def post_until_accepted(client: httpx.Client, post: dict[str, Any]) -> None:
    deadline = time.monotonic() + 180
    while True:
        with suppress(httpx.HTTPError):
            if client.post("/v1/events", json=post).status_code == 202:
                return
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("bus", ["redis", "none"])
def test_readers_who_reconnect_miss_nothing_and_get_nothing_twice(
    postgresql: Server, redis_server: Server, tmp_path: Path, bus: str
) -> None:
    """Two processes take posts at once, one of them is killed, and the readers lose their connections all the time."""
    url = new_postgresql_database(postgresql)
    migrate(settings := GatewaySettings(database_url=url))
    key = key_in(settings)
    redis_url = f"redis://127.0.0.1:{redis_server.port}/1" if bus == "redis" else ""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    given = {"database_url": url, "redis_url": redis_url, "triton_url": "grpc://127.0.0.1:1"}
    with (
        running_gateway(tmp_path / "a", **given) as first,
        running_gateway(tmp_path / "b", **given) as second,
        reading(first.url, key) as one,
        reading(first.url, key) as two,
        reading(second.url, key) as three,
    ):
        readers = (one, two, three)
        is_over, is_cut_often = threading.Event(), threading.Event()

        def post(gateway: GatewayProcess, begin: int) -> None:
            with client_of(gateway, key) as client:
                for number in range(begin, begin + 300, 3):
                    if number >= begin + 150:
                        is_cut_often.wait(180)
                    events = [alert_of(number + each) for each in range(3)]
                    post_until_accepted(client, {"feed": "west", "events": events})

        def disturb() -> None:
            for turn in range(1_000_000):
                if is_over.wait(0.15):
                    return
                readers[turn % 3].cut()
                if all(reader.connections > 3 for reader in readers):
                    is_cut_often.set()

        # The last two post the same events.
        posters = [(first, 0), (second, 1_000), (first, 2_000), (second, 2_000)]
        threads = [threading.Thread(target=post, args=each) for each in posters]
        threads.append(threading.Thread(target=disturb))
        for thread in threads:
            thread.start()
        one.wait(lambda: len(one.events) > 200)
        second.stop(signal.SIGKILL)
        second.start()
        for thread in threads[:-1]:
            thread.join(300)
        is_over.set()
        threads[-1].join(30)
        expected = sorted([*range(300), *range(1_000, 1_300), *range(2_000, 2_300)])
        for reader in readers:
            reader.wait(lambda reader=reader: len(reader.events) >= len(expected))  # type: ignore[misc]
            assert sorted(event.content["track_id"] for event in reader.events) == expected
            numbers = [event.number for event in reader.events]
            assert numbers == sorted(set(numbers))
            assert reader.connections > 3
        assert one.events == two.events == three.events


def test_a_slow_reader_learns_how_many_events_it_missed_and_slows_down_nobody(gateway: GatewayProcess) -> None:
    posts = 40
    updates = [update_of(track_id) for track_id in range(4_000)]
    with (
        socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as slow,
        reading(gateway.url, gateway.key) as fast,
    ):
        slow.sendall(f"GET /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.key}\r\n\r\n".encode())
        assert slow.recv(1_000).startswith(b"HTTP/1.1 200")
        with client_of(gateway) as client:
            for number in range(posts):
                body = {"feed": f"slow-{number}", "updates": updates}
                assert client.post("/v1/events", json=body).json() == {"accepted": 4_000, "repeated": 0}
                # This process parses the events, and may not keep up with the posts while it shares its processor.
                fast.wait(lambda: len(fast.of("update")) == number + 1)  # noqa: B023
        assert [event.content["feed"] for event in fast.of("update")] == [f"slow-{number}" for number in range(posts)]
        assert fast.of("lost") == []
        text = b""
        while f'"feed":"slow-{posts - 1}"'.encode() not in text or not text.endswith(b"\n\n\r\n"):
            text += slow.recv(2**20)
        lost = [int(part.split(b"}")[0]) for part in text.split(b'event: lost\ndata: {"count":')[1:]]
        received = text.count(b"event: update\n")
        assert sum(lost) > 0
        assert received > 0
        assert received + sum(lost) == posts


def test_a_reader_with_a_revoked_key_is_cut_off(gateway: GatewayProcess) -> None:
    with client_of(gateway) as client:
        created = client.post("/v1/keys", json={"name": "short", "scopes": ["read"]}).json()
        with reading(gateway.url, created["key"]) as reader:
            assert client.delete(f"/v1/keys/{created['id']}").status_code == 200
            reader.wait(lambda: reader.status == 401)


def test_open_streams_end_at_once_when_the_process_stops(tmp_path: Path) -> None:
    with (
        running_gateway(tmp_path, triton_url="grpc://127.0.0.1:1", drain_seconds=600) as process,
        socket.create_connection(("127.0.0.1", process.port), timeout=120) as connection,
    ):
        connection.sendall(f"GET /v1/events HTTP/1.1\r\nHost: x\r\nX-API-Key: {process.key}\r\n\r\n".encode())
        text = b""
        while b"id: " not in text:
            text += connection.recv(1_000)
        assert process.process is not None
        process.process.terminate()
        while part := connection.recv(1_000):
            text += part
        assert text.endswith(b"0\r\n\r\n")  # the end of a complete answer
        assert process.process.wait(120) in (0, -signal.SIGTERM)  # before the drain is over


def test_the_models_are_those_that_triton_serves(server: EmbeddedServer, tmp_path: Path) -> None:
    with running_gateway(tmp_path, triton_url=f"http://{server.http_url}") as process, client_of(process) as client:
        models = client.get("/v1/models").json()["models"]
        names = {model["name"] for model in models}
        assert {"reentry_stream", "reentry_scan"} <= names
        assert all(model["ready"] and model["versions"] == [1] for model in models)
        assert client.get("/v1/models/reentry_scan").json() in models
        versions = client.get("/v1/models/reentry_scan/versions").json()
        assert versions == {"name": "reentry_scan", "versions": [1], "answering": 1}
        refused = client.get("/v1/models/track_monitor")
        assert (refused.status_code, refused.json()["code"]) == (404, "not-found")
        os.kill(server.process_id, signal.SIGSTOP)
        try:
            time.sleep(1.1)  # an answer counts for a second
            away = client.get("/v1/models")
            assert (away.status_code, away.json()["code"]) == (503, "model-unavailable")
        finally:
            os.kill(server.process_id, signal.SIGCONT)


def test_a_stream_shows_its_tracks_and_delivers_its_alerts_after_an_outage(
    server: EmbeddedServer,
    table: pd.DataFrame,  # noqa: F811
    tmp_path: Path,
) -> None:
    table.to_csv(tmp_path / "tracks.csv", index=False)
    with running_gateway(tmp_path, triton_url=f"http://{server.http_url}") as process:
        alerts = tmp_path / "alerts.jsonl"

        def stream(name: str) -> dict[str, Any]:
            options = ("--rate", "max", "--alerts", alerts, "--name", name, "--json", "--gateway", process.url)
            environment = os.environ | {"REENTRY_KEY": process.key}
            with running(server, tmp_path / "tracks.csv", *options, env=environment) as command:
                printed, errors = command.communicate(timeout=DEADLINE)
                assert command.returncode == 0, errors
                assert process.key not in errors + printed
            summary: dict[str, Any] = json.loads(printed)
            return summary

        with reading(process.url, process.key) as reader:
            assert stream("first")["undelivered"] == 0
            reader.wait(lambda: len(reader.of("alert")) == len(expected_alerts()))
            content = [event.content for event in reader.of("alert")]
            assert sorted((each["track_id"], each["onset_timestamp"]) for each in content) == expected_alerts()
            line = json.loads(alerts.read_text().splitlines()[0])
            assert line.pop("event") == "alert"
            assert content[0] == line | {"degraded": False}
            last = table.groupby("track_id").last()["timestamp"].to_dict()

            def latest() -> dict[int, Any]:
                tracks = (track for event in reader.of("update") for track in event.content["tracks"])
                return {track["track_id"]: track for track in tracks}

            # Positions are posted after the alerts.
            reader.wait(lambda: {track_id: each["timestamp"] for track_id, each in latest().items()} == last)
            onsets = sorted((track, each["onset_timestamp"]) for track, each in latest().items())
            assert [each for each in onsets if each[1] is not None] == expected_alerts()

            process.stop()
            assert stream("second")["undelivered"] == len(expected_alerts())
            process.start()
            assert stream("third")["undelivered"] == 0
            reader.wait(lambda: len(reader.of("alert")) == 3 * len(expected_alerts()))
            feeds = [event.content["feed"] for event in reader.of("alert")]
            assert feeds == [name for name in ("first", "second", "third") for _ in expected_alerts()]


def test_a_stream_to_standard_output_delivers_its_alerts_too(
    server: EmbeddedServer,
    table: pd.DataFrame,  # noqa: F811
    gateway: GatewayProcess,
) -> None:
    lines = "\n".join(json.dumps(row) for row in table.to_dict("records"))
    options: tuple[str, ...] = ("-", "--alerts", "-", "--name", "lines", "--gateway", gateway.url)
    environment = os.environ | {"REENTRY_KEY": gateway.key}
    with reading(gateway.url, gateway.key) as reader:
        with running(server, *options, stdin=subprocess.PIPE, env=environment) as command:
            printed, errors = command.communicate(lines, timeout=DEADLINE)
            assert command.returncode == 0, errors
        reader.wait(lambda: len(reader.of("alert")) == len(expected_alerts()))
        assert len(printed.splitlines()) == len(expected_alerts())


def test_a_stream_without_a_key_ends_with_an_error(server: EmbeddedServer, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "REENTRY_KEY"}
    with running(server, "-", "--gateway", "http://127.0.0.1:1", env=environment, cwd=tmp_path) as command:
        _, errors = command.communicate(timeout=DEADLINE)
        assert command.returncode != 0
        assert "no key for the gateway" in errors
        assert "REENTRY_KEY" in errors
