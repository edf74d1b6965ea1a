"""What a worker does with a job when there is no Triton: refuse, wait, give back, cancel, give up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import Row

from gateway.accounts.limits import Limits
from gateway.jobs import worker as worker_module
from gateway.jobs.files import s3
from gateway.jobs.waiting import first_of
from gateway.jobs.worker import MOST_ATTEMPTS, Worker, remove_leftovers
from gateway.settings import GatewaySettings, Tier
from reentry.simulation import TrapezoidConfig, simulate_trapezoid
from tests.unit.gateway.jobs.conftest import ROWS, Bench

NOBODY = {"triton_url": "grpc://127.0.0.1:1"}


async def tracks() -> AsyncIterator[bytes]:
    """A file of three tracks."""
    table = simulate_trapezoid(TrapezoidConfig(tracks=3, shortest=20, longest=30, seed=1, labels=False))
    yield table.to_csv(index=False).encode()


@asynccontextmanager
async def working(bench: Bench) -> AsyncIterator[asyncio.Event]:
    """Run a worker during the block; yield the event that stops it."""
    stopping = asyncio.Event()
    worker = Worker(bench.settings, bench.database, Limits(bench.settings), bench.jobs.leases, bench.jobs.files)
    task = asyncio.create_task(worker.run(stopping, asyncio.Event()))
    try:
        yield stopping
    finally:
        stopping.set()
        await task


async def until(bench: Bench, job_id: str, holds: Callable[[Row[Any]], bool], seconds: float = 60.0) -> Row[Any]:
    """Poll the row of a job until a condition holds."""
    deadline = time.monotonic() + seconds
    while not holds(row := await bench.row(job_id)):
        assert time.monotonic() < deadline, row
        await asyncio.sleep(0.02)
    return row


def test_a_job_that_ended_all_its_workers_fails(with_embedded_bench: Callable[..., None]) -> None:
    async def work(bench: Bench) -> None:
        job_id = await bench.create()
        await bench.change(job_id, attempts=MOST_ATTEMPTS)
        async with working(bench):
            row = await until(bench, job_id, lambda row: row.finished_at is not None)
        assert (row.state, row.error["code"]) == ("failed", "job-abandoned")

    with_embedded_bench(work)


def test_a_job_whose_deadline_passed_before_a_worker_took_it_expires(with_embedded_bench: Callable[..., None]) -> None:
    async def work(bench: Bench) -> None:
        job_id = await bench.create()
        await bench.change(job_id, deadline_at=1.0)
        async with working(bench):
            row = await until(bench, job_id, lambda row: row.finished_at is not None)
        assert (row.state, row.error["code"]) == ("expired", "job-expired")

    with_embedded_bench(work)


def test_a_file_without_rows_fails_with_the_reason(with_embedded_bench: Callable[..., None]) -> None:
    async def work(bench: Bench) -> None:
        job_id = await bench.create()
        async with working(bench):
            row = await until(bench, job_id, lambda row: row.finished_at is not None)
        assert (row.state, row.error["code"], row.error["detail"]) == ("failed", "invalid-tracks", "no rows")
        folder = bench.settings.data / "jobs" / job_id
        assert not list((bench.settings.data / "scratch").iterdir())
        assert {path.name for path in folder.iterdir()} == {"source.csv", "1"}

    with_embedded_bench(work, **NOBODY)


def test_a_job_whose_upload_was_removed_fails_at_once(with_embedded_bench: Callable[..., None]) -> None:
    async def work(bench: Bench) -> None:
        job_id = await bench.create(content=tracks())
        bench.jobs.files.remove(job_id)
        async with working(bench):
            row = await until(bench, job_id, lambda row: row.finished_at is not None)
        assert (row.state, row.attempts, row.error["where"]) == ("failed", 1, "source.csv")
        assert row.error["detail"] == "the file was removed after the job was created"

    with_embedded_bench(work, **NOBODY)


@pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning")
def test_a_job_whose_object_was_removed_fails_at_once(with_embedded_bench: Callable[..., None], place: str) -> None:
    url = f"{place}/tracks.csv"

    async def work(bench: Bench) -> None:
        await asyncio.to_thread(s3.object_store().pipe_file, url, ROWS)
        job_id = await bench.create(content=None, source=url)
        await asyncio.to_thread(s3.object_store().rm, url)
        async with working(bench):
            row = await until(bench, job_id, lambda row: row.finished_at is not None)
        assert (row.state, row.attempts, row.error["where"]) == ("failed", 1, url)

    with_embedded_bench(work, sources=(f"{place}/",), **NOBODY)


def test_a_job_waits_while_triton_is_away_without_using_up_attempts(
    with_embedded_bench: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "_PATIENCE", 0.1)
    monkeypatch.setattr(worker_module, "_AWAY_SECONDS", 0.1)

    async def work(bench: Bench) -> None:
        job_id = await bench.create(content=tracks())
        async with working(bench):
            row = await until(bench, job_id, lambda row: row.fence >= 2 and row.lease_owner is None)
        assert (row.state, row.attempts, row.tracks, row.tracks_done) == ("running", 0, 3, 0)

    with_embedded_bench(work, **NOBODY)


def test_a_job_waits_for_the_steps_of_its_account_and_is_charged_once(
    with_embedded_bench: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "_PATIENCE", 0.1)
    monkeypatch.setattr(worker_module, "_AWAY_SECONDS", 0.1)

    async def work(bench: Bench) -> None:
        first = await bench.create(content=tracks())
        async with working(bench):
            row = await until(bench, first, lambda row: row.fence >= 3)
            assert (row.state, row.steps_charged) == ("running", row.rows)
            await bench.jobs.cancel_or_remove(bench.east, first)
            await until(bench, first, lambda row: row.finished_at is not None)
            second = await bench.create(content=tracks())
            row = await until(bench, second, lambda row: row.fence == 1 and row.lease_owner is None)
            assert (row.state, row.attempts) == ("validating", 0)
            assert 0 < row.steps_charged < row.rows
            assert row.lease_until > time.time() + 5
            await bench.jobs.cancel_or_remove(bench.east, second)
            row = await until(bench, second, lambda row: row.finished_at is not None)
            assert (row.state, row.tracks_done) == ("cancelled", 0)

    with_embedded_bench(work, tiers={"standard": Tier(steps_per_minute=80)}, **NOBODY)  # each job has 76 steps


def test_a_worker_that_stops_gives_its_job_back_at_once(with_embedded_bench: Callable[..., None]) -> None:
    async def work(bench: Bench) -> None:
        job_id = await bench.create(content=tracks())
        async with working(bench):
            await until(bench, job_id, lambda row: row.state == "running")
        row = await bench.row(job_id)
        assert (row.state, row.lease_owner, row.attempts) == ("running", None, 0)
        lease = await bench.jobs.leases.acquire("next")
        assert lease is not None
        assert lease.fence == 2

    with_embedded_bench(work, **NOBODY)


def test_a_job_that_is_cancelled_while_it_waits_has_results_without_scores(
    with_embedded_bench: Callable[..., None],
) -> None:
    async def work(bench: Bench) -> None:
        job_id = await bench.create(content=tracks())
        async with working(bench):
            await until(bench, job_id, lambda row: row.state == "running")
            assert await bench.jobs.cancel_or_remove(bench.east, job_id) is not None
            row = await until(bench, job_id, lambda row: row.finished_at is not None)
        assert (row.state, row.tracks, row.tracks_done) == ("cancelled", 3, 0)
        with bench.jobs.files.open(job_id, row.fence, "predictions.csv") as file:
            table = pd.read_csv(file)
        assert len(table) == row.rows > 0
        assert table["reentry_probability"].isna().all()

    with_embedded_bench(work, **NOBODY)


def test_a_worker_whose_job_was_taken_over_stops_and_removes_its_files(
    with_embedded_bench: Callable[..., None],
) -> None:
    async def work(bench: Bench) -> None:
        job_id = await bench.create(content=tracks())
        async with working(bench):
            await until(bench, job_id, lambda row: row.state == "running")
            before = worker_module.metrics.LEASE_LOST._value.get()
            await bench.change(job_id, lease_owner="heir", fence=7, lease_until=4e9)
            folder = bench.settings.data / "jobs" / job_id
            deadline = time.monotonic() + 60
            while (folder / "1").exists():
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)
        row = await bench.row(job_id)
        assert (row.state, row.lease_owner, row.fence) == ("running", "heir", 7)
        assert worker_module.metrics.LEASE_LOST._value.get() == before + 1

    with_embedded_bench(work, **NOBODY)


def test_temporary_files_of_dead_processes_alone_are_removed(tmp_path: Path) -> None:
    settings = GatewaySettings(data=tmp_path)
    host = worker_module.socket.gethostname()
    dead, alive, other = (tmp_path / "scratch" / name for name in (f"{host}-999999999-x", f"{host}-1-x", "other-9-x"))
    for folder in (dead, alive, other):
        folder.mkdir(parents=True)
        (folder / "file").touch()
    remove_leftovers(settings)
    assert [folder.exists() for folder in (dead, alive, other)] == [False, True, True]


def test_a_wait_leaves_no_task_behind() -> None:
    async def main() -> None:
        await first_of(asyncio.sleep(600), asyncio.Event().wait(), seconds=0.01)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())
