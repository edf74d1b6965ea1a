"""Control of a run that scores a file: its progress, and a stop that keeps the tracks scored so far."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from client.journal import Score
from reentry.tracks import ReadReport, Track


class Stage(StrEnum):
    """Stage of a run."""

    SCORING = "scoring"
    WRITING = "writing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """State of a run at one moment."""

    stage: Stage
    rows: int
    """Number of rows in the file."""
    tracks: int
    """Number of tracks in the file, those set aside included."""
    done: int
    """Number of scored tracks."""
    refused: int
    """Number of tracks that were set aside, by the reader or by the server."""
    model_version: int | None
    """Version of the model; None before the first answer."""


class Control:
    """Observer of one run, which may also stop it from any thread."""

    def __init__(
        self,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        on_report: Callable[[ReadReport], None] | None = None,
        on_scored: Callable[[Track, Score], None] | None = None,
    ) -> None:
        """Prepare the control of one run.

        Args:
            on_progress: called after each answer and at the beginning of each stage, in the thread of the run.
            on_report: called before the results are written, with the faults of all tracks that are set aside.
            on_scored: called for each scored track, also for one of an interrupted run. If the model changes, the run
                begins again; `on_progress` then reports no scored track.
        """
        self.on_progress = on_progress
        self.on_report = on_report
        self.on_scored = on_scored
        self._stopped = False
        self._wake: Callable[[], object] | None = None

    @property
    def stopped(self) -> bool:
        """Whether the run shall stop."""
        return self._stopped

    def stop(self) -> None:
        """End the scoring. The run then writes the results of the tracks scored so far."""
        self._stopped = True
        if (wake := self._wake) is not None:
            with suppress(RuntimeError):  # the event loop has just been closed, at the end of the scoring
                wake()

    async def run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Await `work()`. A stop cancels it; this method then returns as soon as it is closed."""
        loop, woken = asyncio.get_running_loop(), asyncio.Event()
        self._wake = lambda: loop.call_soon_threadsafe(woken.set)
        if self._stopped:
            return
        working, stopping = asyncio.create_task(work()), asyncio.create_task(woken.wait())
        try:
            await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._wake = None
            for task in (working, stopping):
                task.cancel()
            await asyncio.gather(working, stopping, return_exceptions=True)
        if not working.cancelled():
            working.result()
