"""The inference log over SQLite and PostgreSQL: no row is lost and none is doubled, whatever fails."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from gateway.database.engine import Database, DatabaseUnavailableError
from gateway.database.migrate import migrate
from gateway.inference_log.log import InferenceLog
from gateway.settings import GatewaySettings
from reentry.runtime.records import read_record
from tests.gateway_servers import new_postgresql_database, running_postgresql
from tests.unit.gateway.inference_log.rows import read, row_of, until

COUNTS = "SELECT count(*), count(DISTINCT id), (SELECT sum(tracks) FROM usage) FROM inference_log"


@asynccontextmanager
async def opened(settings: GatewaySettings, database: Database | None = None) -> AsyncIterator[InferenceLog]:
    """A log that is open within the block."""
    own = Database(settings)
    log = InferenceLog(database or own, settings)
    log.open()
    try:
        yield log
    finally:
        await log.close()
        await own.close()


def value(name: str) -> float:
    return REGISTRY.get_sample_value(name) or 0.0


def stored(settings: GatewaySettings, query: str) -> list[tuple[Any, ...]]:
    async def run() -> list[tuple[Any, ...]]:
        database = Database(settings)
        try:
            return await read(database, query)
        finally:
            await database.close()

    return asyncio.run(run())


def test_rows_and_usage_are_stored_with_all_their_values(gateway_settings: GatewaySettings) -> None:
    async def run() -> None:
        async with opened(gateway_settings) as log:
            log.record([row_of(1, onset_timestamp=5.5, cached=True), row_of(2, degraded=True, model_version=None)])
            log.record([row_of(3, shadow=True, variant="challenger")])
            log.record([], account_id="acct_b", refused=4)

    asyncio.run(run())
    columns = "id, track_id, steps, onset_timestamp, model_version, cached, degraded, shadow, variant"
    assert stored(gateway_settings, f"SELECT {columns} FROM inference_log ORDER BY id") == [
        ("trk_00000001", 1, 10, 5.5, 3, True, False, False, None),
        ("trk_00000002", 2, 10, None, None, False, True, False, None),
        ("trk_00000003", 3, 10, None, 3, False, False, True, "challenger"),
    ]
    sums = "account_id, requests, tracks, steps, cached, degraded, refused"
    assert stored(gateway_settings, f"SELECT {sums} FROM usage ORDER BY account_id") == [
        ("acct_a", 1, 2, 20, 1, 1, 0),
        ("acct_b", 1, 0, 0, 0, 0, 4),
    ]
    (apex,) = stored(
        gateway_settings,
        "SELECT quantities ->> 'apex' FROM inference_log WHERE track_id = 1",
    )
    assert float(apex[0]) == 1e5
    assert [path.name for path in (gateway_settings.data / "spool").iterdir()] == []


def test_rows_are_stored_soon_while_the_log_is_open(gateway_settings: GatewaySettings) -> None:
    async def run() -> None:
        before = value("reentry_gateway_log_rows_total")
        async with opened(gateway_settings) as log:
            for number in range(1_200):
                log.record([row_of(number)])
            await until(lambda: value("reentry_gateway_log_rows_total") == before + 1_200)
            assert value("reentry_gateway_database_up") == 1.0
            log.record([row_of(1_200)])
            await until(lambda: value("reentry_gateway_log_rows_total") == before + 1_201)

    asyncio.run(run())
    assert stored(gateway_settings, COUNTS) == [(1_201, 1_201, 1_201)]


class ForgetfulDatabase:
    """A database that commits, and whose connection is lost before it says so, some times."""

    def __init__(self, database: Database, losses: int) -> None:
        self._database = database
        self.losses = losses

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[Any]:
        """The transaction of the real database."""
        async with self._database.writing() as connection:
            yield connection
        if self.losses:
            self.losses -= 1
            raise DatabaseUnavailableError("connection lost during the commit")


def test_a_commit_whose_answer_is_lost_is_not_repeated(gateway_settings: GatewaySettings) -> None:
    async def run() -> None:
        database = Database(gateway_settings)
        forgetful = ForgetfulDatabase(database, losses=2)
        async with opened(gateway_settings, forgetful) as log:  # type: ignore[arg-type]
            log.record([row_of(1), row_of(2)])
            await until(lambda: forgetful.losses == 0)
            log.record([row_of(3)])
        await database.close()

    asyncio.run(run())
    assert stored(gateway_settings, COUNTS) == [(3, 3, 3)]
    assert stored(gateway_settings, "SELECT sum(requests), sum(steps) FROM usage") == [(2, 30)]


def test_a_part_that_was_stored_before_a_crash_is_not_stored_again(gateway_settings: GatewaySettings) -> None:
    """The process ends between the commit and the deletion of the part."""

    async def run() -> None:
        database = Database(gateway_settings)
        log = InferenceLog(database, gateway_settings)
        log.open()
        spool = log._spool
        assert spool is not None
        spool.remove = lambda _part: spool.parts.popleft()  # type: ignore[method-assign,assignment]
        log.record([row_of(1), row_of(2)])
        before = value("reentry_gateway_log_rows_total")
        await until(lambda: value("reentry_gateway_log_rows_total") == before + 2)
        await log.close()
        await database.close()
        left = list((gateway_settings.data / "spool").glob("*/*.part"))
        assert len(left) == 1
        (left[0].parent / "lock").touch()
        async with opened(gateway_settings):
            await until(lambda: not left[0].exists())

    asyncio.run(run())
    assert stored(gateway_settings, COUNTS) == [(2, 2, 2)]


def test_a_row_that_the_database_refuses_is_kept_on_disk_and_holds_up_no_other(
    gateway_settings: GatewaySettings,
) -> None:
    async def run() -> None:
        async with opened(gateway_settings) as log:
            log.record([row_of(1, peak_altitude=float("nan"))])
            await until(lambda: bool(list((gateway_settings.data / "spool").glob("*/*.unusable"))))
            log.record([row_of(2, steps="many")])
            await until(lambda: len(list((gateway_settings.data / "spool").glob("*/*.unusable"))) == 2)
            log.record([row_of(3)])

    asyncio.run(run())
    assert stored(gateway_settings, "SELECT id FROM inference_log") == [("trk_00000003",)]


@pytest.mark.parametrize("bad", [{"peak_altitude": float("nan")}, {"steps": 2**63}, {"steps": "many"}])
def test_other_requests_in_the_same_part_as_a_refused_row_are_stored(
    gateway_settings: GatewaySettings, bad: dict[str, Any]
) -> None:
    async def run() -> None:
        dropped = value("reentry_gateway_spool_dropped_total")
        async with opened(gateway_settings) as log:
            for number in range(1, 6):
                log.record([row_of(number, **(bad if number == 3 else {}))])
            await until(lambda: log._spool is not None and not log._spool.size)
        assert value("reentry_gateway_spool_dropped_total") == dropped + 1

    asyncio.run(run())
    assert stored(gateway_settings, "SELECT track_id FROM inference_log ORDER BY id") == [(1,), (2,), (4,), (5,)]
    assert stored(gateway_settings, "SELECT requests, tracks FROM usage") == [(4, 4)]
    (kept,) = (gateway_settings.data / "spool").glob("*/*.unusable")
    with kept.open("rb") as file:
        assert b"trk_00000003" in (read_record(file) or b"")
        assert read_record(file) is None


def test_rows_wait_while_the_tables_are_not_migrated(gateway_settings: GatewaySettings) -> None:
    async def run() -> None:
        await asyncio.to_thread(migrate, gateway_settings, "base")
        async with opened(gateway_settings) as log:
            log.record([row_of(1)])
            await until(lambda: log._is_away)
            log.record([row_of(2)])
            await asyncio.to_thread(migrate, gateway_settings)
            await until(lambda: not log._is_away)

    asyncio.run(run())
    assert stored(gateway_settings, COUNTS) == [(2, 2, 2)]


def test_a_full_spool_drops_the_newest_rows_and_counts_them(tmp_path: Path) -> None:
    settings = GatewaySettings(data=tmp_path, database_url="postgresql://nobody@127.0.0.1:1/none", spool_bytes=20_000)

    async def run() -> None:
        before = value("reentry_gateway_spool_dropped_total")
        async with opened(settings) as log:
            for number in range(0, 100, 2):
                log.record([row_of(number), row_of(number + 1)])
            await until(lambda: value("reentry_gateway_spool_bytes") > 19_000)
        dropped = value("reentry_gateway_spool_dropped_total") - before
        assert 0 < dropped < 100
        migrate(embedded := replace(settings, database_url=""))
        async with opened(embedded):
            await until(lambda: not list((tmp_path / "spool").glob("*/*.part")))
        rows = stored_ids(await asyncio.to_thread(stored, embedded, "SELECT id FROM inference_log"))
        assert rows == [f"trk_{number:08d}" for number in range(100 - int(dropped))]

    asyncio.run(run())


def stored_ids(rows: list[tuple[Any, ...]]) -> list[str]:
    return sorted(row[0] for row in rows)


def test_what_cannot_be_logged_is_counted_and_does_not_fail_the_request(tmp_path: Path) -> None:
    settings = GatewaySettings(data=tmp_path)
    migrate(settings)

    async def run() -> None:
        before = value("reentry_gateway_spool_dropped_total")
        async with opened(settings) as log:
            log.record([row_of(1, quantities=object())])
        log.record([row_of(2)])  # after the end
        assert value("reentry_gateway_spool_dropped_total") == before + 2

    asyncio.run(run())


def test_postgresql_is_killed_under_load_and_every_row_is_stored_once(tmp_path: Path) -> None:
    with running_postgresql(tmp_path) as server:
        settings = GatewaySettings(data=tmp_path / "gateway", database_url=new_postgresql_database(server))
        migrate(settings)

        async def run() -> int:
            number = 0

            async def load(log: InferenceLog, seconds: float) -> None:
                nonlocal number
                end = asyncio.get_running_loop().time() + seconds
                while asyncio.get_running_loop().time() < end:
                    log.record([row_of(number), row_of(number + 1)])
                    number += 2
                    await asyncio.sleep(0.001)

            async with opened(settings) as log:
                for _ in range(3):
                    await load(log, 0.4)
                    await asyncio.to_thread(server.stop, signal.SIGQUIT)  # at once, in the middle of transactions
                    await load(log, 0.4)
                    await until(lambda: log._is_away)
                    await asyncio.to_thread(server.start)
                await until(lambda: not log._is_away)
            return number

        answered = asyncio.run(run())
        assert stored(settings, COUNTS) == [(answered, answered, answered)]


@pytest.mark.parametrize("tries", [3])
def test_killed_processes_lose_no_row_of_an_answer(gateway_settings: GatewaySettings, tries: int) -> None:
    command = [sys.executable, "-m", "tests.unit.gateway.inference_log.logging_process"]
    arguments = [str(gateway_settings.data), gateway_settings.database_url]
    answered: set[str] = set()
    for number in range(tries):
        with subprocess.Popen(
            [*command, *arguments, str(number * 1_000_000)], text=True, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            # The kills come at different moments of a batch.
            answered.update(process.stdout.readline().strip() for _ in range(600 + 170 * number))
            process.kill()
            answered.update(line.strip() for line in process.stdout if line.endswith("\n"))

    async def run() -> None:
        async with opened(gateway_settings):
            await until(lambda: not list((gateway_settings.data / "spool").glob("*/*.part")))

    asyncio.run(run())
    rows = stored_ids(stored(gateway_settings, "SELECT id FROM inference_log"))
    assert len(rows) == len(set(rows))
    assert answered <= set(rows)
    assert len(set(rows) - answered) <= 3 * tries  # logged, but killed before the answer was sent
    assert stored(gateway_settings, "SELECT sum(tracks) FROM usage") == [(len(rows),)]
