"""Late jobs expire, old ones go with their files, and so does what a killed upload left."""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import insert, select

from gateway import metrics
from gateway.database.tables import Job, WebhookDelivery
from gateway.ids import first_id
from gateway.jobs.upkeep import Upkeep
from tests.unit.gateway.jobs.conftest import Bench


def upkeep_of(bench: Bench) -> Upkeep:
    return Upkeep(bench.database, bench.jobs.files, bench.jobs.leases, retention_seconds=1_000.0)


def test_late_jobs_expire_and_old_ones_go_with_their_files(with_bench: Callable[..., None]) -> None:
    async def work(bench: Bench) -> None:
        late, old, running = [await bench.create() for _ in range(3)]
        await bench.change(late, deadline_at=1.0)
        for job_id, state in ((old, "completed"), (running, "running")):
            await bench.change(job_id, state=state, expires_at=1.0)
        await upkeep_of(bench).once()
        async with bench.database.reading() as connection:
            states = (await connection.execute(select(Job.id, Job.state))).all()
        assert dict(map(tuple, states)) == {late: "expired", running: "running"}
        assert bench.jobs.files.job_ids() == sorted([late, running])
        assert metrics.JOBS.labels("expired")._value.get() == 1
        assert metrics.JOBS.labels("running")._value.get() == 1

    with_bench(work)


def test_files_without_a_job_are_removed_after_a_day(with_bench: Callable[..., None]) -> None:
    async def work(bench: Bench) -> None:
        yesterday, today = (first_id("job", time.time() - seconds) for seconds in (2 * 86_400, 3_600))
        for job_id in (yesterday, today):
            upload = bench.jobs.files.upload(job_id, "source.csv")
            upload.write(b"an upload whose process was killed")
            upload.commit()
        job_id = await bench.create()
        await upkeep_of(bench).once()
        assert bench.jobs.files.job_ids() == sorted([today, job_id])

    with_bench(work)


def test_old_messages_leave_the_outbox_once_they_have_ended(with_bench: Callable[..., None]) -> None:
    async def work(bench: Bench) -> None:
        same = {"account_id": "a", "job_id": "j", "url": "", "body": b"", "next_at": 0.0}
        messages = [("old", "delivered", 1.0), ("waiting", "waiting", 1.0), ("new", "failed", time.time())]
        async with bench.database.writing() as connection:
            for name, state, created_at in messages:
                values = {"id": name, "state": state, "created_at": created_at, **same}
                await connection.execute(insert(WebhookDelivery).values(values))
        await upkeep_of(bench).once()
        async with bench.database.reading() as connection:
            left = set((await connection.execute(select(WebhookDelivery.id))).scalars())
        assert left == {"waiting", "new"}

    with_bench(work)
