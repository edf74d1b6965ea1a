"""Posts to a gateway that is away, refuses, or answers late. The far side is a small server of this test."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from client.stream import gateway as gateway_module
from client.stream.event_file import EventFile
from client.stream.gateway import GatewayPoster, check_gateway
from client.stream.run import StreamConfig
from reentry.errors import ConfigError
from tests.unit.client.stream.test_positions import scan


class StandInGateway:
    """A server that keeps the posts, and answers as a test wants."""

    def __init__(self) -> None:
        self.posts: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.status: Callable[[dict[str, Any]], int] = lambda _post: 202
        self.url = ""

    async def _answer(self, request: web.Request) -> web.Response:
        post = await request.json()
        self.keys.add(request.headers.get("authorization"))
        status = self.status(post)
        if status == 202:
            self.posts.append(post)
        return web.json_response({"detail": "the answer"}, status=status)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[StandInGateway]:
        """Answer within the block."""
        app = web.Application()
        app.router.add_post("/v1/events", self._answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    @property
    def alerts(self) -> list[int]:
        """Tracks of the alerts that were accepted."""
        return [event["track_id"] for post in self.posts for event in post.get("events", [])]

    @property
    def updates(self) -> list[int]:
        """Tracks of the positions that were accepted."""
        return [each["track_id"] for post in self.posts for each in post.get("updates", [])]


def append(path: Path, *numbers: int) -> None:
    with path.open("a") as file:
        file.writelines(json.dumps({"event": "alert", "track_id": number}) + "\n" for number in numbers)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def posting(url: str, path: Path) -> AsyncIterator[GatewayPoster]:
    """A poster that runs within the block."""
    poster = GatewayPoster(url, "rk_secret", "west", EventFile(path, url))
    task = asyncio.create_task(poster.run())
    try:
        yield poster
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_positions_and_alerts_are_posted_with_the_key(tmp_path: Path) -> None:
    async def run() -> None:
        path = tmp_path / "alerts.jsonl"
        async with StandInGateway().running() as gateway, posting(gateway.url, path) as poster:
            poster.add("west/1", *scan([1, 2], 1.0))
            append(path, 7, 8)
            await until(lambda: len(gateway.posts) == 2)
            assert gateway.posts[0] == {
                "feed": "west",
                "events": [{"event": "alert", "track_id": 7}, {"event": "alert", "track_id": 8}],
            }
            assert gateway.posts[1]["feed"] == "west/1"
            assert gateway.updates == [1, 2]
            assert gateway.keys == {"Bearer rk_secret"}

    asyncio.run(run())


def test_alerts_wait_for_a_gateway_that_is_away_and_of_the_positions_the_latest_are_sent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        path = tmp_path / "alerts.jsonl"
        gateway = StandInGateway()
        async with gateway.running(), posting(gateway.url, path) as poster:
            gateway.status = lambda _post: 503
            for time in range(10):
                poster.add("west", *scan([1], float(time)))
                append(path, time)
            await until(lambda: "is away" in caplog.text)
            gateway.status = lambda _post: 202
            await until(lambda: len(gateway.alerts) == 10)
            poster.add("west", *scan([1], 10.0))
            await until(lambda: bool(gateway.updates))
            assert gateway.alerts == list(range(10))
            assert "answers again" in caplog.text
            assert "rk_secret" not in caplog.text

    asyncio.run(run())


def test_an_event_that_the_gateway_refuses_is_left_out_and_the_others_are_delivered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        path = tmp_path / "alerts.jsonl"
        async with StandInGateway().running() as gateway, posting(gateway.url, path) as poster:
            gateway.status = lambda post: 422 if {"event": "alert", "track_id": 2} in post.get("events", []) else 202
            append(path, 1, 2, 3)
            await until(lambda: gateway.alerts == [1, 3])
            assert caplog.text.count("the gateway refuses an event") == 1
            gateway.status = lambda post: 422 if "updates" in post else 202
            poster.add("west", *scan([1], 1.0))
            append(path, 4)
            await until(lambda: gateway.alerts == [1, 3, 4])
            await until(lambda: "refuses positions of feed west" in caplog.text)

    asyncio.run(run())


def test_the_end_waits_for_a_late_gateway_for_a_bounded_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_module, "_END_SECONDS", 0.5)

    async def run() -> None:
        path = tmp_path / "alerts.jsonl"
        gateway = StandInGateway()
        async with gateway.running():
            poster = GatewayPoster(gateway.url, "rk_secret", "west", EventFile(path, gateway.url))
            append(path, 1, 2, 3)
            poster.add("west", *scan([1], 1.0))
            gateway.status = lambda _post: 429
            assert await poster.finish() == 3
            monkeypatch.setattr(gateway_module, "_END_SECONDS", 60.0)
            gateway.status = lambda _post: 202
            assert await poster.finish() == 0
            assert (gateway.alerts, await poster.finish()) == ([1, 2, 3], 0)

    asyncio.run(run())


def test_a_gateway_that_hangs_is_given_up_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_module, "_END_SECONDS", 0.3)

    async def run() -> None:
        path = tmp_path / "alerts.jsonl"
        with socket.create_server(("127.0.0.1", 0)) as listener:  # accepts, and never answers
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            poster = GatewayPoster(url, "rk_secret", "west", EventFile(path, url))
            append(path, 1)
            assert await poster.finish() == 1

    asyncio.run(run())


@pytest.mark.parametrize(
    ("url", "key", "problem"),
    [
        ("grpc://127.0.0.1:8001", "rk_a", "not the URL of a gateway"),
        ("http://host:8080/path", "rk_a", "not the URL of a gateway"),
        ("http://host:8080", "", "no key for the gateway"),
        ("http://host:8080", " \n", "no key for the gateway"),
    ],
)
def test_a_wrong_address_or_a_missing_key_is_an_error_at_the_start(url: str, key: str, problem: str) -> None:
    check_gateway("https://host:8443/", "rk_a\n")
    with pytest.raises(ConfigError, match=problem):
        StreamConfig(source="-", gateway=url, gateway_key=key)


def test_the_key_is_not_shown() -> None:
    assert "rk_secret" not in repr(StreamConfig(source="-", gateway="http://host:1", gateway_key="rk_secret"))
