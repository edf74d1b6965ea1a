"""Leases of jobs: a table in SQLite or PostgreSQL, in which one worker at a time holds a job.

A lease ends unless it is renewed, so that another worker resumes the job of a dead one. Each lease has a number, the
fence, which increases. A worker that lost its lease without noticing has an old fence, and cannot change the job. All
times are those of the database, so that the clocks of the workers need not agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, and_, case, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import aliased
from sqlalchemy.sql.elements import ColumnElement

from gateway import metrics
from gateway.database.clock import now
from gateway.database.engine import Database
from gateway.database.tables import Account, Job, WebhookDelivery
from gateway.inference_log.usage import HOUR, add_sums
from gateway.jobs.states import ACTIVE, ENDED, PATH, WITH_RESULTS, JobState, before
from gateway.jobs.webhooks.announcements import announcement
from gateway.problems import Problem


@dataclass(slots=True, kw_only=True)
class Work:
    """What a worker reports about a job with each renewal of its lease."""

    state: JobState = JobState.VALIDATING
    """State that the job shall have; ignored if the job is further already, or cancelled."""
    rows: int | None = None
    tracks: int | None = None
    tracks_done: int = 0
    tracks_refused: int = 0
    model_version: int | None = None
    steps: int = 0
    """Number of steps of the scored tracks, which is known at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A job that one worker holds."""

    job_id: str
    account_id: str
    key_id: str
    request_id: str
    owner: str
    """Name of the worker."""
    fence: int
    """Number of the lease."""
    source: str
    state: JobState
    rows: int | None
    """Number of rows in the file; None before a worker has read it."""
    steps_charged: int
    attempts: int
    """Number of leases in which the job made no progress, this one included."""
    seconds_left: float
    """Time until the deadline of the job, s."""


class Leases:
    """The jobs that workers hold."""

    def __init__(self, database: Database, lease_seconds: float) -> None:
        """Prepare the leases of one worker process.

        Args:
            database: the database.
            lease_seconds: time after which a lease ends unless it is renewed, s.
        """
        self._database = database
        self._seconds = lease_seconds
        self._now: ColumnElement[float] = now(database)

    async def acquire(self, owner: str) -> Lease | None:
        """Take the job that is next, or return None if there is none.

        The account whose last job began the longest ago is next, so that no account waits for all jobs of another
        one. Within an account the oldest job is next. Jobs to be cancelled precede all others.
        """
        other = aliased(Job)
        last_began = select(func.max(other.started_at)).where(other.account_id == Job.account_id).scalar_subquery()
        upcoming = (
            select(Job.id)
            .where(Job.state.in_(ACTIVE), self._is_free())
            .order_by(case((Job.state == JobState.CANCELLING, 0), else_=1), func.coalesce(last_began, 0.0), Job.id)
            .limit(1)
            .with_for_update(skip_locked=True, of=Job)
        )
        statement = (
            update(Job)
            .where(Job.id == upcoming.scalar_subquery())
            .values(
                lease_owner=owner,
                lease_until=self._now + self._seconds,
                fence=Job.fence + 1,
                attempts=Job.attempts + 1,
                started_at=func.coalesce(Job.started_at, self._now),
                revision=Job.revision + 1,
            )
            .returning(Job, (Job.deadline_at - self._now).label("seconds_left"))
        )
        async with self._database.writing() as connection:
            row = (await connection.execute(statement)).one_or_none()
        if row is None:
            return None
        return Lease(
            job_id=row.id,
            account_id=row.account_id,
            key_id=row.key_id,
            request_id=row.request_id,
            owner=owner,
            fence=row.fence,
            source=row.source,
            state=JobState(row.state),
            rows=row.rows,
            steps_charged=row.steps_charged,
            attempts=row.attempts,
            seconds_left=row.seconds_left,
        )

    async def renew(self, lease: Lease, work: Work) -> JobState | None:
        """Extend a lease, report the progress, and return the state of the job; None if the lease is lost."""
        earlier = PATH[: PATH.index(work.state)] if work.state in PATH else ()
        state = case((Job.state.in_(earlier), work.state), else_=Job.state)
        advanced = Job.tracks_done < work.tracks_done
        changes = [advanced, Job.state != state]
        if work.tracks is not None:
            changes += [Job.tracks.is_distinct_from(work.tracks), Job.tracks_refused != work.tracks_refused]
        values: dict[str, Any] = {
            "lease_until": self._now + self._seconds,
            "state": state,
            "revision": Job.revision + case((or_(*changes), 1), else_=0),
            "tracks_done": case((advanced, work.tracks_done), else_=Job.tracks_done),
            "attempts": case((advanced, 1), else_=Job.attempts),
        }
        if work.tracks is not None:
            values |= {"rows": work.rows, "tracks": work.tracks, "tracks_refused": work.tracks_refused}
        if work.model_version is not None:
            values["model_version"] = work.model_version
        statement = update(Job).where(self._is_held(lease)).values(values).returning(Job.state)
        async with self._database.writing() as connection:
            found = (await connection.execute(statement)).scalar_one_or_none()
        return None if found is None else JobState(found)

    async def tier_of(self, account_id: str) -> str:
        """Return the name of an account's tier."""
        async with self._database.reading() as connection:
            tier: str = (await connection.execute(select(Account.tier).where(Account.id == account_id))).scalar_one()
        return tier

    async def note_charge(self, lease: Lease, rows: int, charged: int) -> None:
        """Note how many rows of a job are counted in the limit of its account."""
        statement = update(Job).where(self._is_held(lease)).values(rows=rows, steps_charged=charged)
        async with self._database.writing() as connection:
            await connection.execute(statement)

    async def release(self, lease: Lease, *, delay: float = 0.0, counted: bool = False) -> bool:
        """Give a job back, so that any worker may take it after a delay; return whether the lease was still held.

        Args:
            lease: the lease.
            delay: time during which no worker takes the job, s.
            counted: whether the lease counts as an attempt, which it does if the job itself may be the cause.
        """
        statement = (
            update(Job)
            .where(self._is_held(lease))
            .values(
                lease_owner=None,
                lease_until=self._now + delay,
                attempts=Job.attempts if counted else case((Job.attempts > 0, Job.attempts - 1), else_=0),
                revision=Job.revision + 1,
            )
        )
        async with self._database.writing() as connection:
            return (await connection.execute(statement)).rowcount == 1

    async def finish(self, lease: Lease, state: JobState, work: Work, error: Problem | None = None) -> JobState | None:
        """End a job, and return the state it has now; None if the lease is lost, in which case nothing changes.

        A job that was cancelled while its results were written is cancelled. A job with results is added to the usage
        of its account.
        """
        new: Any = state
        if state == JobState.COMPLETED:
            new = case((Job.state == JobState.CANCELLING, JobState.CANCELLED), else_=state)
        allowed = before(state) | ({JobState.CANCELLING} if state == JobState.COMPLETED else set())
        values: dict[str, Any] = {"state": new, "error": None if error is None else error.content()}
        if work.tracks is not None:
            values |= {
                "rows": work.rows,
                "tracks": work.tracks,
                "tracks_done": work.tracks_done,
                "tracks_refused": work.tracks_refused,
                "model_version": work.model_version,
            }
        async with self._database.writing() as connection:
            if state == JobState.COMPLETED:  # the last renewals may have failed
                passed = and_(self._is_held(lease), Job.state.in_(PATH[:-1]))
                await connection.execute(update(Job).where(passed).values(state=JobState.FINALIZING))
            row = await self._end(connection, and_(self._is_held(lease), Job.state.in_(allowed)), values)
            if row is None:
                # The connection may have been lost after an earlier try was committed.
                own = select(Job.state).where(Job.id == lease.job_id, Job.fence == lease.fence, Job.state.in_(ENDED))
                found = (await connection.execute(own)).scalar_one_or_none()
                return None if found is None else JobState(found)
            if row.state in WITH_RESULTS:
                sums = {"requests": 1, "tracks": row.tracks_done, "steps": work.steps, "refused": row.tracks_refused}
                await add_sums(connection, {(row.account_id, int(row.finished_at // HOUR)): sums})
        return JobState(row.state)

    async def expire(self) -> int:
        """End the jobs that nobody holds and whose deadline has passed, and return their number."""
        late = and_(Job.state.in_(ACTIVE), Job.deadline_at < self._now, self._is_free())
        ids = select(Job.id).where(late).limit(100)
        ended = 0
        async with self._database.writing() as connection:
            for job_id in (await connection.execute(ids)).scalars().all():
                values = {"state": JobState.EXPIRED, "error": expired().content()}
                ended += await self._end(connection, and_(Job.id == job_id, late), values) is not None
        return ended

    async def cancel(self, account_id: str, job_id: str) -> Row[Any] | None:
        """Cancel a job of an account. A job that no worker has begun ends at once; a worker ends any other one.

        Returns:
            The job as it is now; None if it has ended already, or does not exist.
        """
        own = and_(Job.id == job_id, Job.account_id == account_id)
        async with self._database.writing() as connection:
            row = await self._end(
                connection, and_(own, Job.state == JobState.VALIDATING, Job.fence == 0), {"state": JobState.CANCELLED}
            )
            if row is not None:
                return row
            statement = (
                update(Job)
                .where(own, Job.state.in_(before(JobState.CANCELLING) | {JobState.CANCELLING}))
                .values(
                    state=JobState.CANCELLING,
                    revision=Job.revision + 1,
                    lease_until=case((Job.lease_owner.is_(None), None), else_=Job.lease_until),  # it waits no longer
                )
                .returning(Job)
            )
            return (await connection.execute(statement)).one_or_none()

    async def _end(
        self, connection: AsyncConnection, condition: ColumnElement[bool], values: dict[str, Any]
    ) -> Row[Any] | None:
        """End the job that satisfies a condition, and put the message to its webhook into the outbox."""
        statement = (
            update(Job)
            .where(condition)
            .values(
                {
                    **values,
                    "finished_at": self._now,
                    "lease_owner": None,
                    "lease_until": None,
                    "revision": Job.revision + 1,
                }
            )
            .returning(Job)
        )
        row = (await connection.execute(statement)).one_or_none()
        if row is not None:
            metrics.JOBS_FINISHED.labels(row.state).inc()
            metrics.JOB_SECONDS.observe(max(0.0, row.finished_at - row.created_at))
            if row.webhook_url is not None:
                await connection.execute(insert(WebhookDelivery).values(announcement(row)))
        return row

    def _is_free(self) -> ColumnElement[bool]:
        return or_(Job.lease_until.is_(None), Job.lease_until < self._now)

    def _is_held(self, lease: Lease) -> ColumnElement[bool]:
        """Whether the lease is the newest of its job. One that ended stays valid until another worker takes the job."""
        return and_(
            Job.id == lease.job_id, Job.fence == lease.fence, Job.lease_owner == lease.owner, Job.state.in_(ACTIVE)
        )


def expired() -> Problem:
    """Return the error of a job whose deadline has passed."""
    return Problem(
        "job-expired",
        "the deadline passed before the job was complete",
        fix="create the job again with a later deadline, once the model server answers",
    )
