"""A worker of jobs: takes a lease, scores the file in a child process, and ends the job."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from gateway import metrics
from gateway.accounts.limits import Limits
from gateway.database.engine import Database, DatabaseUnavailableError
from gateway.jobs.files.store import JobFiles, StoreError
from gateway.jobs.leases import Lease, Leases, Work, expired
from gateway.jobs.scoring_child import Message, Order
from gateway.jobs.scoring_process import scoring
from gateway.jobs.states import JobState
from gateway.jobs.tracks_log import steps_of, store_rows
from gateway.jobs.waiting import first_of
from gateway.problems import Problem
from gateway.settings import GatewaySettings
from gateway.traces import note, step_span

MOST_ATTEMPTS: Final = 10
"""Number of workers that may take a job, one after the other, without any progress before it fails."""

_RENEW_SECONDS: Final = 1.0
"""Longest time between two renewals of a lease, s; also the time in which a worker notices a cancellation."""
_IDLE_SECONDS: Final = 1.0
"""Time between two looks for a job, s."""
_AWAY_SECONDS: Final = 5.0
"""Time after which a job is tried again when Triton or the store was away, s."""
_PARTS_OF_LIMIT: Final = 10
"""Number of parts in which a job takes the steps that its account may send in a minute."""
_PATIENCE: Final = 60.0
"""Time without an answer of Triton after which another job gets its turn, s."""

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Turn:
    """One turn of a worker on a job."""

    lease: Lease
    work: Work = field(default_factory=Work)
    reported: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the state of the work has changed, which is reported at once."""
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the account has cancelled the job."""
    over: bool = False
    """Whether the lease is renewed no longer."""


class Worker:
    """A worker, which holds one job at a time."""

    def __init__(
        self, settings: GatewaySettings, database: Database, limits: Limits, leases: Leases, files: JobFiles
    ) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        """Name of the worker, which no other worker has."""
        self.last_look = time.monotonic()
        """Time at which the worker last looked for a job or renewed its lease."""
        self._settings = settings
        self._database = database
        self._limits = limits
        self._leases = leases
        self._files = files
        self._scratch = settings.data / "scratch"

    async def run(self, stopping: asyncio.Event, wake: asyncio.Event) -> None:
        """Work on jobs until the process stops; then give the job in hand back, so that another worker takes it.

        Args:
            stopping: set when the process stops.
            wake: set when this process has created a job.
        """
        while not stopping.is_set():
            self.last_look = time.monotonic()
            wake.clear()
            try:
                lease = await self._leases.acquire(self.name)
            except DatabaseUnavailableError:
                lease = None
            if lease is None:
                await first_of(stopping.wait(), wake.wait(), seconds=_IDLE_SECONDS)
                continue
            log = _log.bind(job_id=lease.job_id, fence=lease.fence)
            try:
                turn = _Turn(lease, Work(state=lease.state))
                with step_span("job", {"reentry.job_id": lease.job_id, "reentry.attempt": lease.attempts}):
                    await self._take_turn(turn, stopping)
            except Exception:
                # The lease ends by itself, and the attempt counts, so that a defect ends in a failed job.
                log.exception("the work on a job failed")
                await first_of(stopping.wait(), seconds=_AWAY_SECONDS)

    async def _take_turn(self, turn: _Turn, stopping: asyncio.Event) -> None:
        lease = turn.lease
        if lease.attempts > MOST_ATTEMPTS:
            await self._finish(turn, JobState.FAILED, stopping, _abandoned())
            return
        if lease.seconds_left <= 0:
            await self._finish(turn, JobState.EXPIRED, stopping, expired())
            return
        self._scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(
            prefix=f"{socket.gethostname()}-{os.getpid()}-", dir=self._scratch, ignore_cleanup_errors=True
        ) as scratch:
            working = asyncio.ensure_future(self._score(turn, Path(scratch)))
            keeping = asyncio.ensure_future(self._keep(turn))
            stopped = asyncio.ensure_future(stopping.wait())
            late = asyncio.ensure_future(asyncio.sleep(lease.seconds_left))
            tasks = {working, keeping, stopped, late}
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                # A renewal is not cancelled: SQLite would stay locked by the connection that is amid its transaction.
                turn.over = True
                turn.reported.set()
                for task in tasks - {keeping}:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        if not working.cancelled():
            await self._conclude(turn, working.result(), stopping)
        elif keeping.result():
            await self._give_up(lease)
        elif not late.cancelled():
            await self._finish(turn, JobState.EXPIRED, stopping, expired())
        else:
            await self._release(lease)

    async def _keep(self, turn: _Turn) -> bool:
        """Renew the lease until the turn is over; return whether the lease is lost."""
        seconds = min(_RENEW_SECONDS, self._settings.lease_seconds / 3)
        while not turn.over:
            turn.reported.clear()
            with suppress(DatabaseUnavailableError):  # the fence protects the job if another worker takes it meanwhile
                state = await self._leases.renew(turn.lease, turn.work)
                if state is None:
                    return True
                if state == JobState.CANCELLING:
                    turn.cancelled.set()
            self.last_look = time.monotonic()
            if not turn.over:
                await first_of(turn.reported.wait(), seconds=seconds)
        return False

    async def _score(self, turn: _Turn, scratch: Path) -> Message:
        """Score the file of a job, store the results, and return how it ended."""
        lease = turn.lease
        if lease.rows is not None and (wait := await self._charge(turn, lease.rows)) is not None:
            return wait
        try:
            source = await asyncio.to_thread(_source, self._files, lease, scratch)
        except FileNotFoundError:
            return _vanished(lease)
        except StoreError as error:
            return _unavailable(error)
        try:
            place = await asyncio.to_thread(self._files.workplace, lease.job_id, lease.fence, scratch)
        except (StoreError, FileNotFoundError) as error:
            return _unavailable(error)
        order = Order(
            source=source.name,
            out=str(place),
            tracks=str(scratch / "tracks"),
            url=self._settings.triton_url,
            timeout=self._settings.timeout,
            patience=_PATIENCE,
        )
        end, may_score = Message(), False
        async with scoring(order, source.parent, scratch) as process:
            stopping = asyncio.ensure_future(_stop_when(turn.cancelled, process.stop))
            try:
                async for message in process.messages():
                    if message.end:
                        end = message
                        break
                    if not may_score:
                        if (wait := await self._charge(turn, message.rows)) is not None:
                            return wait
                        may_score = True
                        process.score()
                    _note(turn, message)
                else:
                    status = await process.ended()
                    end = Message(end="failed", problem=f"the process that scored the file ended with status {status}")
            finally:
                stopping.cancel()
        if end.end == "scored":
            try:
                await asyncio.to_thread(self._files.keep, lease.job_id, lease.fence, place)
            except (StoreError, FileNotFoundError) as error:
                return _unavailable(error)
            await self._log_tracks(turn, scratch / "tracks")
        return end

    async def _charge(self, turn: _Turn, rows: int) -> Message | None:
        """Count the rows of a job in the limit of its account; return the end of the turn if it has to wait.

        The rows are counted in parts, so that a job may have more of them than the limit of a minute.
        """
        lease, charged, seconds = turn.lease, turn.lease.steps_charged, None
        if charged >= rows or lease.state == JobState.CANCELLING or turn.cancelled.is_set():
            return None
        try:
            tier = await self._leases.tier_of(lease.account_id)
            tier = tier if tier in self._settings.tiers else "standard"  # as for its requests
            allowed = self._settings.tiers[tier].steps_per_minute
            part = max(1, allowed // _PARTS_OF_LIMIT)
            while charged < rows and seconds is None:
                steps = min(part, rows - charged)
                seconds = await self._limits.take_steps(lease.account_id, tier, steps)
                charged += steps if seconds is None else 0
            await self._leases.note_charge(lease, rows, charged)
        except DatabaseUnavailableError as error:
            return _unavailable(error)
        if seconds is None:
            return None
        return Message(end="limited", seconds=max(seconds, 60.0 * min(1.0, (rows - charged) / allowed)))

    async def _log_tracks(self, turn: _Turn, path: Path) -> None:
        """Store the rows of the inference log. While the database is away it is tried again."""
        turn.work.steps = await asyncio.to_thread(steps_of, path)
        while True:
            try:
                await store_rows(self._database, turn.lease, path)
            except DatabaseUnavailableError:
                await asyncio.sleep(_IDLE_SECONDS)
            except Exception:  # the results are complete, and so is the usage
                _log.exception("the tracks of a job cannot be logged", job_id=turn.lease.job_id)
                return
            else:
                return

    async def _conclude(self, turn: _Turn, end: Message, stopping: asyncio.Event) -> None:
        """End the job, or give it back for a repetition."""
        lease = turn.lease
        if end.end == "scored":
            state = JobState.CANCELLED if turn.cancelled.is_set() else JobState.COMPLETED
            await self._finish(turn, state, stopping)
        elif end.end == "invalid":
            error = Problem(
                *("invalid-tracks", end.problem), expected=end.expected, got=end.got, where=end.where, fix=end.fix
            )
            await self._finish(turn, JobState.FAILED, stopping, error)
        elif end.end == "limited":
            await self._release(lease, delay=end.seconds)
        else:
            counted = end.end != "unavailable"
            _log.warning("a job is tried again later", job_id=lease.job_id, reason=end.problem, counted=counted)
            await self._release(lease, delay=_AWAY_SECONDS, counted=counted)

    async def _finish(
        self, turn: _Turn, state: JobState, stopping: asyncio.Event, error: Problem | None = None
    ) -> None:
        """End a job. While the database is away it is tried again, until the process stops."""
        lease, reached = turn.lease, None
        while True:
            try:
                reached = await self._leases.finish(lease, state, turn.work, error)
                break
            except DatabaseUnavailableError:
                self.last_look = time.monotonic()
                if stopping.is_set():
                    return
                await first_of(stopping.wait(), seconds=_IDLE_SECONDS)
        if reached is None:
            await self._give_up(lease)
            return
        note({"reentry.state": reached, "reentry.tracks": turn.work.tracks_done})
        _log.info("a job ended", job_id=lease.job_id, state=reached, tracks=turn.work.tracks_done)
        with suppress(StoreError):
            await asyncio.to_thread(self._files.tidy, lease.job_id, lease.fence)

    async def _give_up(self, lease: Lease) -> None:
        """Remove what this worker wrote for a job that another worker has taken."""
        metrics.LEASE_LOST.inc()
        _log.warning("the lease of a job was lost", job_id=lease.job_id, fence=lease.fence)
        with suppress(StoreError):
            await asyncio.to_thread(self._files.discard, lease.job_id, lease.fence)

    async def _release(self, lease: Lease, *, delay: float = 0.0, counted: bool = False) -> None:
        with suppress(DatabaseUnavailableError):  # the lease then ends by itself
            await self._leases.release(lease, delay=delay, counted=counted)


def remove_leftovers(settings: GatewaySettings) -> None:
    """Remove the temporary files that killed processes of this machine have left."""
    import shutil

    for folder in (settings.data / "scratch").glob(f"{socket.gethostname()}-*"):
        pid = folder.name.removeprefix(f"{socket.gethostname()}-").partition("-")[0]
        if not Path(f"/proc/{pid}").exists():
            shutil.rmtree(folder, ignore_errors=True)


def _source(files: JobFiles, lease: Lease, scratch: Path) -> Path:
    """Return the local path of the file of a job, which may be an object that the job refers to.

    Raises:
        StoreError: the store is unavailable.
        FileNotFoundError: the file was removed after the job was created.
    """
    if not lease.source.startswith("s3://"):
        path = files.source(lease.job_id, lease.source, scratch)
        path.stat()
        return path
    from gateway.jobs.files.s3 import fetch

    path = scratch / f"source{Path(lease.source).suffix.lower()}"
    fetch(lease.source, path)
    return path


def _note(turn: _Turn, message: Message) -> None:
    """Note the progress that the child reports."""
    work = turn.work
    state = JobState.FINALIZING if message.stage == "writing" else JobState.RUNNING
    if state != work.state or work.tracks is None:
        turn.reported.set()
    work.state, work.rows, work.tracks = state, message.rows, message.tracks
    work.tracks_done, work.tracks_refused, work.model_version = message.done, message.refused, message.model_version


def _unavailable(error: Exception) -> Message:
    return Message(end="unavailable", problem=str(error))


def _vanished(lease: Lease) -> Message:
    return Message(
        end="invalid",
        problem="the file was removed after the job was created",
        where=lease.source,
        fix="store the file again, and create another job",
    )


def _abandoned() -> Problem:
    return Problem(
        "job-abandoned",
        f"{MOST_ATTEMPTS} workers took the job and none of them made any progress",
        expected="a file that fits into the memory of a worker",
        fix="split the file, or see the log of the workers",
    )


async def _stop_when(event: asyncio.Event, stop: Callable[[], None]) -> None:
    await event.wait()
    stop()
