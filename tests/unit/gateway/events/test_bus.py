"""The bus inside one process, and between processes by a real Redis that is killed and restarted."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.events import bus as bus_module
from gateway.events.bus import Bus, RedisBus, bus_of
from tests.gateway_servers import Server, running_redis


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(90):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def two_processes(server: Server) -> AsyncIterator[tuple[RedisBus, RedisBus]]:
    """Two connected buses, as in two processes."""
    url = f"redis://127.0.0.1:{server.port}/0"
    first, second = RedisBus(url), RedisBus(url)
    await first.open()
    await second.open()
    try:
        await until(lambda: first.is_connected and second.is_connected)
        yield first, second
    finally:
        await first.close()
        await second.close()


def test_the_settings_choose_the_bus() -> None:
    assert type(bus_of("")) is Bus
    assert type(bus_of("redis://127.0.0.1:1/0")) is RedisBus


def test_listeners_get_the_messages_of_their_channel_until_they_stop() -> None:
    bus, got = Bus(), []
    stop = bus.listen("a", lambda message: got.append(("a", message)))
    stop_second = bus.listen("a", lambda message: got.append(("second", message)))
    bus.publish("a", b"1")
    bus.publish("b", b"2")
    assert got == [("a", b"1"), ("second", b"1")]
    stop()
    assert bus.has_listeners("a")
    bus.publish("a", b"3")
    stop_second()
    bus.publish("a", b"4")
    assert got[2:] == [("second", b"3")]
    assert not bus.has_listeners("a")


def test_a_listener_may_stop_while_a_message_is_delivered() -> None:
    bus, got = Bus(), []
    stops: list[Callable[[], None]] = []

    def listener(message: bytes) -> None:
        got.append(message)
        stops.pop()()

    stops.append(bus.listen("a", listener))
    bus.publish("a", b"1")
    bus.publish("a", b"2")
    assert got == [b"1"]


def test_messages_reach_the_other_process_once_and_in_order(redis_server: Server) -> None:
    async def run() -> None:
        async with two_processes(redis_server) as (first, second):
            here: list[bytes] = []
            there: list[bytes] = []
            first.listen("a", here.append)
            second.listen("a", there.append)
            await until(lambda: "a" in first._elsewhere and "a" in second._elsewhere)
            messages = [b"%d" % number for number in range(500)]
            for message in messages:
                first.publish("a", message)
            assert here == messages
            await until(lambda: len(there) == 500)
            second.publish("a", b"end")
            await until(lambda: here[-1] == b"end")
            assert here == there == [*messages, b"end"]

    asyncio.run(run())


def test_listeners_in_another_process_are_known_until_they_stop(redis_server: Server) -> None:
    async def run() -> None:
        async with two_processes(redis_server) as (first, second):
            assert not first.has_listeners("b")
            stop = second.listen("b", lambda _: None)
            await until(lambda: first.has_listeners("b"))
            stop()
            await until(lambda: not first.has_listeners("b"))

    asyncio.run(run())


def test_the_subscription_survives_a_silence_longer_than_the_timeout_of_a_socket(
    redis_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with two_processes(redis_server) as (first, second):
            got: list[bytes] = []
            second.listen("a", got.append)
            await until(lambda: first.has_listeners("a"))
            subscription = second._subscription
            await asyncio.sleep(2.5)
            first.publish("a", b"1")
            await until(lambda: got == [b"1"])
            assert second._subscription is subscription

    monkeypatch.setattr(bus_module, "_SOCKET_SECONDS", 2.0)
    asyncio.run(run())


def test_redis_is_killed_and_restarted_and_messages_flow_again(tmp_path: Path) -> None:
    async def run(server: Server) -> None:
        async with two_processes(server) as (first, second):
            here: list[bytes] = []
            there: list[bytes] = []
            first.listen("a", here.append)
            second.listen("a", there.append)
            await until(lambda: "a" in first._elsewhere and "a" in second._elsewhere)
            for number in range(2):
                await asyncio.to_thread(server.stop, signal.SIGKILL)
                await until(lambda: not first.is_connected and not second.is_connected)
                assert first.has_listeners("a")
                first.publish("a", b"lost %d" % number)
                assert here[-1] == b"lost %d" % number  # listeners of the same process need no Redis
                await asyncio.to_thread(server.start)
                await until(lambda: "a" in first._elsewhere and "a" in second._elsewhere)
                first.publish("a", b"kept %d" % number)
                await until(lambda count=number + 1: len(there) == count)  # type: ignore[misc]
            assert there == [b"kept 0", b"kept 1"]
            assert here == [b"lost 0", b"kept 0", b"lost 1", b"kept 1"]

    with running_redis(tmp_path) as server:
        asyncio.run(run(server))


def test_a_redis_that_hangs_is_noticed_and_never_waited_for(tmp_path: Path) -> None:
    async def run(server: Server) -> None:
        async with two_processes(server) as (first, second):
            there: list[bytes] = []
            second.listen("a", there.append)
            await until(lambda: first.has_listeners("a"))
            server.pause()
            try:
                begun = asyncio.get_running_loop().time()
                for _ in range(200):
                    first.publish("a", b"x" * 2**20)
                assert asyncio.get_running_loop().time() - begun < 5.0
                assert sum(len(message) for _, message in first._outbox) <= 16 * 2**20
                await until(lambda: not first.is_connected and not second.is_connected)
            finally:
                server.resume()
            await until(lambda: first.has_listeners("a"))
            first.publish("a", b"end")
            await until(lambda: there[-1:] == [b"end"])

    with running_redis(tmp_path) as server:
        asyncio.run(run(server))
