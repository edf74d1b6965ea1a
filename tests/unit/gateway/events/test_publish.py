"""Kept and transient events of an account, over SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import numpy as np
import pytest
from sqlalchemy import text

from gateway.database.engine import Database, DatabaseUnavailableError
from gateway.events import publish as publish_module
from gateway.events.bus import Bus
from gateway.events.publish import Events, NewEvent
from gateway.inference_log.retention import delete_before
from gateway.settings import GatewaySettings


@pytest.fixture(autouse=True)
def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let readers look into the table more often, so that the tests wait less."""
    monkeypatch.setattr(publish_module, "_BETWEEN_LOOKS", 0.05)


@asynccontextmanager
async def opened(settings: GatewaySettings, bus: Bus | None = None) -> AsyncIterator[Events]:
    """Events of one process."""
    database = Database(settings)
    try:
        yield Events(database, bus or Bus())
    finally:
        await database.close()


def event_of(number: int, kind: str = "alert") -> NewEvent:
    return NewEvent(kind=kind, identity=f"{kind} {number}", content={"track_id": number, "onset_timestamp": 0.5})


class Reader:
    """A reader that collects what it gets."""

    def __init__(self, events: Events, account_id: str, after: int | None) -> None:
        self.text = ""
        self.started = asyncio.Event()
        self._events, self._account_id, self._after = events, account_id, after
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        begin = await self._events.begin(self._after)
        async for part in self._events.read(self._account_id, begin):
            self.text += part.decode()
            self.started.set()

    @property
    def tracks(self) -> list[int]:
        """Tracks of the events in their order."""
        return [int(number) for number in re.findall(r'"track_id":(\d+)', self.text)]

    @property
    def ids(self) -> list[int]:
        """Ids of the events in their order, without that of the beginning."""
        return [int(number) for number in re.findall(r"^id: (\d+)$", self.text, re.MULTILINE)[1:]]

    async def until(self, count: int) -> None:
        """Wait for a number of events."""
        async with asyncio.timeout(90):
            while self.text.count("event: ") < count:
                if self._task.done():
                    self._task.result()
                await asyncio.sleep(0.005)

    async def close(self) -> None:
        """Stop reading."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def test_an_event_is_kept_once_and_comes_back_to_each_reader_who_lacks_it(gateway_settings: GatewaySettings) -> None:
    async def run() -> None:
        async with opened(gateway_settings) as events:
            assert await events.keep("acct_a", [event_of(1), event_of(2), event_of(1)]) == 2
            assert await events.keep("acct_a", [event_of(2), event_of(3)]) == 1
            assert await events.keep("acct_b", [event_of(1)]) == 1
            assert await events.keep("acct_a", []) == 0
            every, later, new = Reader(events, "acct_a", 0), None, Reader(events, "acct_a", None)
            await every.until(3)
            later = Reader(events, "acct_a", every.ids[0])
            await later.until(2)
            await new.started.wait()
            await events.keep("acct_a", [event_of(4, "refinement")])
            for reader, count in ((every, 4), (later, 3), (new, 1)):
                await reader.until(count)
                await reader.close()
            assert (every.tracks, later.tracks, new.tracks) == ([1, 2, 3, 4], [2, 3, 4], [4])
            assert every.ids == sorted(every.ids)
            assert 'event: refinement\ndata: {"track_id":4,"onset_timestamp":0.5}\n\n' in new.text

    asyncio.run(run())


def test_a_reader_without_an_event_knows_where_to_continue(gateway_settings: GatewaySettings) -> None:
    async def run() -> None:
        async with opened(gateway_settings) as events:
            await events.keep("acct_a", [event_of(1)])
            first = Reader(events, "acct_a", None)
            await first.started.wait()
            await first.close()
            number = int(re.fullmatch(r"id: (\d+)\n\n", first.text)[1])  # type: ignore[index]
            await events.keep("acct_a", [event_of(2)])  # while the reader is away
            second = Reader(events, "acct_a", number)
            await second.until(1)
            await second.close()
            assert second.tracks == [2]

    asyncio.run(run())


def test_a_number_of_another_database_means_that_the_reader_has_nothing(gateway_settings: GatewaySettings) -> None:
    async def run() -> None:
        async with opened(gateway_settings) as events:
            await events.keep("acct_a", [event_of(1)])
            reader = Reader(events, "acct_a", 10**6)
            await reader.until(1)
            await reader.close()
            assert reader.tracks == [1]

    asyncio.run(run())


def test_numbers_of_deleted_events_are_not_used_again(gateway_settings: GatewaySettings) -> None:
    async def run() -> None:
        async with opened(gateway_settings) as events:
            await events.keep("acct_a", [event_of(1), event_of(2)])
            last = await events.begin(None)
            assert await delete_before(events._database, 1e11) == 2
            await events.keep("acct_a", [event_of(3)])
            reader = Reader(events, "acct_a", last)
            events._looked = 0.0
            await reader.until(1)
            await reader.close()
            assert reader.ids == [last + 1]

    asyncio.run(run())


def test_many_events_arrive_in_batches_without_a_gap(
    gateway_settings: GatewaySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish_module, "_BATCH", 50)

    async def run() -> None:
        async with opened(gateway_settings) as events:
            assert await events.keep("acct_a", [event_of(number) for number in range(2_000)]) == 2_000
            reader = Reader(events, "acct_a", 0)
            await reader.until(2_000)
            await reader.close()
            assert reader.tracks == list(range(2_000))

    asyncio.run(run())


def test_a_reader_sees_events_of_another_process_without_a_bus_between_them(gateway_settings: GatewaySettings) -> None:
    async def run() -> None:
        async with opened(gateway_settings) as here, opened(gateway_settings) as there:
            reader = Reader(there, "acct_a", None)
            await reader.started.wait()
            for number in range(3):
                await here.keep("acct_a", [event_of(number)])
                await reader.until(number + 1)
            await reader.close()
            assert reader.tracks == [0, 1, 2]

    asyncio.run(run())


def test_a_late_commit_is_not_missed_by_a_reader_who_has_later_events(gateway_settings: GatewaySettings) -> None:
    """Without the lock the second transaction would take a later number, commit first, and hide the first one."""

    async def run() -> None:
        async with opened(gateway_settings) as events, opened(gateway_settings) as other:
            reader = Reader(events, "acct_a", 0)
            async with events._database.writing() as slow:
                if slow.dialect.name == "postgresql":
                    await slow.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": publish_module._LOCK})
                await slow.execute(
                    text(
                        "INSERT INTO events (account_id, kind, identity, content, at) "
                        """VALUES ('acct_a', 'alert', 'slow', '{"track_id": 1}', 0)"""
                    )
                )
                fast = asyncio.create_task(other.keep("acct_a", [event_of(2)]))
                await asyncio.sleep(0.3)
                assert not fast.done()
            assert await fast == 1
            await reader.until(2)
            await reader.close()
            assert reader.tracks == [1, 2]

    asyncio.run(run())


def test_present_readers_of_the_account_get_transient_events_and_others_do_not(
    gateway_settings: GatewaySettings,
) -> None:
    async def run() -> None:
        async with opened(gateway_settings) as events:
            events.send("acct_a", "update", {"track_id": 1})  # nobody reads
            reader, other = Reader(events, "acct_a", None), Reader(events, "acct_b", None)
            await reader.started.wait()
            await other.started.wait()
            events.send("acct_a", "update", {"track_id": 2})
            await reader.until(1)
            await events.keep("acct_b", [event_of(3)])
            await other.until(1)
            await reader.close()
            await other.close()
            assert (reader.tracks, other.tracks) == ([2], [3])
            assert not events.has_readers("acct_a")

    asyncio.run(run())


def test_a_scored_track_is_sent_with_few_of_its_points(gateway_settings: GatewaySettings) -> None:
    steps = 1_000
    columns: dict[str, Any] = {
        "timestamp": np.arange(steps, dtype=np.float64),
        "phase": (np.arange(steps) > 500).astype(np.uint8),
    } | {name: np.ones(steps, np.float32) for name in ("latitude", "longitude", "altitude", "probability")}
    rest = {"onset_timestamp": 501.0, "model_version": 3, "degraded": False}

    async def run() -> None:
        async with opened(gateway_settings) as events:
            events.publish_track("acct_a", track_id=1, columns=columns, **rest)  # type: ignore[arg-type]
            reader = Reader(events, "acct_a", None)
            await reader.started.wait()
            few = {name: values[:2] for name, values in columns.items()}
            for track_id, given in ((2, columns), (3, few)):
                events.publish_track("acct_a", track_id=track_id, columns=given, **rest)  # type: ignore[arg-type]
            await reader.until(2)
            await reader.close()
            large, small = [msgspec.json.decode(data) for data in re.findall("^data: (.*)$", reader.text, re.M)]
            assert (large["feed"], large["track_id"], large["onset_timestamp"]) == ("score", 2, 501.0)
            assert len(large["timestamp"]) == len(large["phase"]) == 300
            assert (large["timestamp"][0], large["timestamp"][-1]) == (0.0, 999.0)
            assert large["phase"] == [int(time > 500) for time in large["timestamp"]]
            assert small["timestamp"] == [0.0, 1.0]

    asyncio.run(run())


def test_a_reader_outlives_a_database_that_is_away_for_a_while(gateway_settings: GatewaySettings) -> None:
    async def run() -> None:
        async with opened(gateway_settings) as events:
            reader = Reader(events, "acct_a", 0)
            await reader.started.wait()
            away = Away()
            database, events._database = events._database, away  # type: ignore[assignment]
            events.send("acct_a", "update", {"track_id": 1})
            await reader.until(1)
            async with asyncio.timeout(90):
                await away.asked.wait()  # a look fails
            await Events(database, Bus()).keep("acct_a", [event_of(2)])
            events._database = database
            await reader.until(2)
            await reader.close()
            assert reader.tracks == [1, 2]

    asyncio.run(run())


class Away:
    """A database that does not answer."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """Fail."""
        self.asked.set()
        raise DatabaseUnavailableError("away")
        yield


def test_a_reader_whose_key_is_revoked_is_cut_off(gateway_settings: GatewaySettings) -> None:
    async def run() -> None:
        async with opened(gateway_settings) as events:
            answers = iter([True, False])

            async def check() -> bool:
                return next(answers)

            async with asyncio.timeout(90):
                assert [part async for part in events.read("acct_a", 0, check)] == [b"id: 0\n\n"]
            assert not events.has_readers("acct_a")

    asyncio.run(run())
