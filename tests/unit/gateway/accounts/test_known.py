from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from gateway.accounts import known as module
from gateway.accounts.known import Known
from gateway.database.engine import DatabaseUnavailableError


class Table:
    """Rows that can be changed, and that can be away or slow."""

    def __init__(self) -> None:
        self.rows = {"a": "first"}
        self.queries = 0
        self.is_away = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def look_up(self, row_id: str) -> str | None:
        self.queries += 1
        await self.gate.wait()
        if self.is_away:
            raise DatabaseUnavailableError
        return self.rows.get(row_id)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Clock that a test moves by its attribute `now`."""
    clock = SimpleNamespace(now=1_000.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


async def settle() -> None:
    """Let all tasks go on until they wait for the test, without a wait for the time."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_a_hundred_requests_at_once_share_one_query() -> None:
    async def main() -> None:
        table = Table()
        table.gate.clear()
        known = Known(table.look_up)
        requests = [asyncio.create_task(known.get("a")) for _ in range(100)]
        await asyncio.sleep(0)
        requests[0].cancel()  # the client of the request that began the query is gone
        await asyncio.sleep(0)
        table.gate.set()
        assert await asyncio.gather(*requests[1:]) == 99 * ["first"]
        assert requests[0].cancelled()
        assert table.queries == 1

    asyncio.run(main())


def test_a_changed_row_is_seen_after_a_second(clock: SimpleNamespace) -> None:
    async def main() -> None:
        table = Table()
        known = Known(table.look_up)
        assert await known.get("a") == "first"
        del table.rows["a"]
        clock.now += 0.9
        assert await known.get("a") == "first"
        clock.now += 0.2
        assert await known.get("a") is None
        assert await known.get("a") is None
        assert table.queries == 2

    asyncio.run(main())


def test_a_forgotten_row_is_looked_up_at_once() -> None:
    async def main() -> None:
        table = Table()
        known = Known(table.look_up)
        await known.get("a")
        table.rows["a"] = "second"
        known.forget("a")
        assert await known.get("a") == "second"

    asyncio.run(main())


def test_a_row_stays_known_for_a_minute_while_the_database_is_away(clock: SimpleNamespace) -> None:
    async def main() -> None:
        table = Table()
        known = Known(table.look_up)
        await known.get("a")
        table.is_away = True
        clock.now += 59
        assert await known.get("a") == "first"
        clock.now += 2
        with pytest.raises(DatabaseUnavailableError):
            await known.get("a")
        table.is_away = False
        clock.now += 2
        assert await known.get("a") == "first"

    asyncio.run(main())


def test_the_database_is_asked_once_a_second_while_it_is_away(clock: SimpleNamespace) -> None:
    async def main() -> None:
        table = Table()
        known = Known(table.look_up)
        await known.get("a")
        table.is_away = True
        clock.now += 2
        assert [await known.get("a") for _ in range(10)] == 10 * ["first"]
        with pytest.raises(DatabaseUnavailableError):
            await known.get("unknown")
        assert table.queries == 2
        clock.now += 2
        await known.get("a")
        assert table.queries == 3

    asyncio.run(main())


def test_a_known_row_does_not_wait_for_a_database_that_hangs(
    clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        monkeypatch.setattr(module, "_PATIENCE", 0.01)
        table = Table()
        known = Known(table.look_up)
        await known.get("a")
        table.gate.clear()
        clock.now += 2
        assert await known.get("a") == "first"
        table.rows["a"] = "second"
        table.gate.set()  # the query that nobody waits for ends
        await settle()
        assert await known.get("a") == "second"

    asyncio.run(main())


def test_an_absent_row_is_looked_up_once_a_second(clock: SimpleNamespace) -> None:
    async def main() -> None:
        table = Table()
        known = Known(table.look_up)
        assert [await known.get("unknown") for _ in range(100)] == 100 * [None]
        assert table.queries == 1
        table.rows["unknown"] = "new"
        clock.now += 1.1
        assert await known.get("unknown") == "new"

    asyncio.run(main())


def test_a_flood_of_unknown_rows_takes_four_queries_at_once_and_known_rows_are_still_read(
    clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        monkeypatch.setattr(module, "_MOST_WAITING", 100)
        table = Table()
        known = Known(table.look_up)
        await known.get("a")
        table.gate.clear()
        flood = [asyncio.create_task(known.get(f"unknown {number}")) for number in range(300)]
        await settle()
        assert table.queries == 1 + 4
        assert sum(isinstance(each.exception(), DatabaseUnavailableError) for each in flood if each.done()) == 200
        clock.now += 2
        table.rows["a"] = "second"
        request = asyncio.create_task(known.get("a"))
        await settle()
        table.gate.set()
        assert await request == "second"
        assert (await asyncio.gather(*flood, return_exceptions=True)).count(None) == 100

    asyncio.run(main())


def test_the_timeout_of_one_row_does_not_mark_the_database_as_away(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        table = Table()
        known = Known(table.look_up)
        table.gate.clear()
        with monkeypatch.context() as patch:
            patch.setattr(module, "_LONGEST", 0.01)
            with pytest.raises(DatabaseUnavailableError):
                await known.get("slow")
        table.gate.set()
        assert await known.get("a") == "first"

    asyncio.run(main())
