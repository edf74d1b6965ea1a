"""One worker at a time holds a job, whatever dies; accounts take turns; every end is announced once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest
from sqlalchemy import select

from gateway.database.tables import WebhookDelivery
from gateway.inference_log.usage import usage_of
from gateway.jobs.leases import Leases, Work
from gateway.jobs.states import JobState
from gateway.problems import Problem
from tests.unit.gateway.jobs.conftest import Bench

WithBench = Callable[..., None]


def test_a_job_is_held_by_one_worker_until_it_ends(with_bench: WithBench) -> None:
    async def work(bench: Bench) -> None:
        job_id = await bench.create()
        leases = bench.jobs.leases
        lease = await leases.acquire("one")
        assert lease is not None
        assert (lease.job_id, lease.fence, lease.attempts, lease.source) == (job_id, 1, 1, "source.csv")
        assert 86_390 < lease.seconds_left <= 86_400
        assert await leases.acquire("two") is None
        report = Work(state=JobState.RUNNING, rows=10, tracks=3, tracks_done=1, tracks_refused=1, model_version=4)
        assert await leases.renew(lease, report) == JobState.RUNNING
        row = await bench.row(job_id)
        assert (row.rows, row.tracks, row.tracks_done, row.tracks_refused, row.model_version) == (10, 3, 1, 1, 4)
        revision = row.revision
        await leases.renew(lease, report)
        assert (await bench.row(job_id)).revision == revision, "nothing has changed"
        report.tracks_done, report.state = 2, JobState.FINALIZING
        assert await leases.renew(lease, report) == JobState.FINALIZING
        assert (await bench.row(job_id)).revision == revision + 1
        assert await leases.finish(lease, JobState.COMPLETED, report) == JobState.COMPLETED
        assert await leases.finish(lease, JobState.COMPLETED, report) == JobState.COMPLETED, "a repetition after a loss"
        assert await leases.renew(lease, report) is None
        row = await bench.row(job_id)
        assert (row.state, row.lease_owner, row.lease_until) == ("completed", None, None)
        assert row.finished_at >= row.started_at >= row.created_at

    with_bench(work)


def test_a_zombie_changes_nothing_after_another_worker_has_taken_its_job(with_bench: WithBench) -> None:
    async def work(bench: Bench) -> None:
        job_id = await bench.create()
        leases = Leases(bench.database, 0.05)
        zombie = await leases.acquire("zombie")
        assert zombie is not None
        await asyncio.sleep(0.1)
        heir = await bench.jobs.leases.acquire("heir")
        assert heir is not None
        assert (heir.job_id, heir.fence, heir.attempts) == (job_id, 2, 2)
        assert await leases.renew(zombie, Work(state=JobState.RUNNING, tracks=1, tracks_done=1)) is None
        assert await leases.finish(zombie, JobState.COMPLETED, Work(tracks=1)) is None
        assert not await leases.release(zombie)
        row = await bench.row(job_id)
        assert (row.state, row.lease_owner, row.tracks) == ("validating", "heir", None)
        assert await bench.jobs.leases.finish(heir, JobState.COMPLETED, Work(tracks=5)) == JobState.COMPLETED

    with_bench(work)


def test_a_late_renewal_keeps_a_lease_that_nobody_has_taken(with_bench: WithBench) -> None:
    async def work(bench: Bench) -> None:
        await bench.create()
        short = Leases(bench.database, 0.05)
        lease = await short.acquire("one")
        assert lease is not None
        await asyncio.sleep(0.1)
        assert await bench.jobs.leases.renew(lease, Work()) == JobState.VALIDATING
        assert await short.acquire("two") is None

    with_bench(work)


def test_accounts_take_turns_and_within_an_account_the_oldest_job_is_first(with_bench: WithBench) -> None:
    async def work(bench: Bench) -> None:
        east = [await bench.create(bench.east) for _ in range(5)]
        west = [await bench.create(bench.west) for _ in range(2)]
        taken = []
        while (lease := await bench.jobs.leases.acquire("one")) is not None:
            taken.append(lease.job_id)
        assert taken == [east[0], west[0], east[1], west[1], east[2], east[3], east[4]]

    with_bench(work)


def test_many_workers_take_every_job_once(with_bench: WithBench) -> None:
    async def work(bench: Bench) -> None:
        created = {await bench.create() for _ in range(20)}

        async def worker(name: str) -> list[str]:
            taken = []
            while (lease := await bench.jobs.leases.acquire(name)) is not None:
                taken.append(lease.job_id)
            return taken

        taken = [job for jobs in await asyncio.gather(*(worker(str(name)) for name in range(6))) for job in jobs]
        assert sorted(taken) == sorted(created)

    with_bench(work)


@pytest.mark.parametrize(("counted", "attempts"), [(True, 2), (False, 1)])
def test_a_released_job_is_taken_after_its_delay_and_an_attempt_counts_only_if_the_job_is_the_cause(
    with_bench: WithBench, counted: bool, attempts: int
) -> None:
    async def work(bench: Bench) -> None:
        job_id = await bench.create()
        leases = bench.jobs.leases
        lease = await leases.acquire("one")
        assert lease is not None
        assert await leases.release(lease, delay=60, counted=counted)
        assert await leases.acquire("two") is None
        await bench.change(job_id, lease_until=None)
        lease = await leases.acquire("two")
        assert lease is not None
        assert (lease.fence, lease.attempts) == (2, attempts)
        assert await leases.release(lease)
        assert await leases.acquire("three") is not None, "without a delay it is free at once"

    with_bench(work)


def test_progress_restores_the_attempts(with_bench: WithBench) -> None:
    async def work(bench: Bench) -> None:
        job_id = await bench.create()
        await bench.change(job_id, attempts=7)
        lease = await bench.jobs.leases.acquire("one")
        assert lease is not None
        assert lease.attempts == 8
        await bench.jobs.leases.renew(lease, Work(state=JobState.RUNNING, tracks=9, tracks_done=1))
        assert (await bench.row(job_id)).attempts == 1
        await bench.jobs.leases.renew(lease, Work(state=JobState.RUNNING, tracks=9, tracks_done=0))
        assert (await bench.row(job_id)).tracks_done == 1, "a worker that begins again does not count backwards"

    with_bench(work)


def test_a_job_that_nobody_has_begun_is_cancelled_at_once(with_bench: WithBench) -> None:
    async def work(bench: Bench) -> None:
        job_id = await bench.create()
        assert await bench.jobs.leases.cancel(bench.west.account_id, job_id) is None, "it is another account's"
        row = await bench.jobs.leases.cancel(bench.east.account_id, job_id)
        assert row is not None
        assert (row.state, row.finished_at is not None) == ("cancelled", True)
        assert await bench.jobs.leases.acquire("one") is None
        assert await bench.jobs.leases.cancel(bench.east.account_id, job_id) is None

    with_bench(work)


def test_a_cancelled_job_precedes_others_and_ends_as_cancelled(with_bench: WithBench) -> None:
    async def work(bench: Bench) -> None:
        job_id = await bench.create(bench.east)
        leases = bench.jobs.leases
        lease = await leases.acquire("one")
        assert lease is not None
        await bench.create(bench.west)
        row = await leases.cancel(bench.east.account_id, job_id)
        assert row is not None
        assert row.state == "cancelling"
        assert await leases.renew(lease, Work(state=JobState.RUNNING)) == JobState.CANCELLING
        await leases.release(lease)
        again = await leases.acquire("two")
        assert again is not None
        assert (again.job_id, again.state) == (job_id, JobState.CANCELLING)
        # The worker had just written everything when the cancellation came.
        assert await leases.finish(again, JobState.COMPLETED, Work(tracks=1)) == JobState.CANCELLED

    with_bench(work)


def test_late_jobs_expire_unless_a_worker_holds_them(with_bench: WithBench) -> None:
    async def work(bench: Bench) -> None:
        held, waiting, early = [await bench.create() for _ in range(3)]
        lease = await bench.jobs.leases.acquire("one")
        assert lease is not None
        assert lease.job_id == held
        for job_id in (held, waiting):
            await bench.change(job_id, deadline_at=1.0)
        assert await bench.jobs.leases.expire() == 1
        assert [(await bench.row(job_id)).state for job_id in (held, waiting, early)] == [
            *("validating", "expired", "validating")
        ]
        assert (await bench.row(waiting)).error["code"] == "job-expired"

    with_bench(work)


def test_every_end_of_a_job_with_a_webhook_puts_one_message_into_the_outbox(with_bench: WithBench) -> None:
    async def work(bench: Bench) -> None:
        await bench.jobs.secrets.rotate(bench.east.account_id)
        url = "https://hooks.example.com/reentry"
        done, late, dropped, broken = [await bench.create(webhook_url=url) for _ in range(4)]
        leases = bench.jobs.leases
        lease = await leases.acquire("one")
        assert lease is not None
        assert lease.job_id == done
        for _ in range(2):
            await leases.finish(lease, JobState.COMPLETED, Work(tracks=1, tracks_done=1))
        await bench.change(late, deadline_at=1.0)
        await leases.expire()
        await leases.cancel(bench.east.account_id, dropped)
        lease = await leases.acquire("one")
        assert lease is not None
        await leases.finish(lease, JobState.FAILED, Work(), Problem("invalid-tracks", "no rows"))
        async with bench.database.reading() as connection:
            rows = (await connection.execute(select(WebhookDelivery))).all()
        messages = {row.job_id: msgspec.json.decode(row.body) for row in rows}
        assert len(rows) == 4
        assert {job_id: message["type"] for job_id, message in messages.items()} == {
            done: "job.completed",
            late: "job.expired",
            dropped: "job.cancelled",
            broken: "job.failed",
        }
        assert messages[broken]["data"]["error"]["detail"] == "no rows"
        assert messages[done]["data"]["progress"] == 1.0

    with_bench(work)


def test_a_job_with_results_is_added_to_the_usage_once(with_bench: WithBench) -> None:
    async def work(bench: Bench) -> None:
        leases, done = bench.jobs.leases, Work(tracks=5, tracks_done=4, tracks_refused=1, steps=1_000)
        for state in (JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED):
            job_id = await bench.create()
            lease = await leases.acquire("one")
            assert lease is not None
            if state == JobState.CANCELLED:
                await leases.cancel(bench.east.account_id, job_id)
            zombie = replace(lease, fence=lease.fence - 1)
            assert await leases.finish(zombie, state, done) is None
            for _ in range(2):  # the second time repeats a commit whose answer was lost
                assert await leases.finish(lease, state, done) == state
        sums = await usage_of(bench.database, bench.east.account_id, 0.0, 1e12)
        total = {name: sum(each[name] for each in sums) for name in ("requests", "tracks", "steps", "refused")}
        assert total == {"requests": 2, "tracks": 8, "steps": 2_000, "refused": 2}, "a failed job has no results"
        assert await usage_of(bench.database, bench.west.account_id, 0.0, 1e12) == []

    with_bench(work)
