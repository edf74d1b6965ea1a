"""A feed as one sequence: each scan is one request, and the server keeps the tracks of the feed.

Shapes: N measurements of one scan, M measurement columns.
"""

from __future__ import annotations

import logging
from typing import Final

import numpy as np

from client.connection import RefusedError, ServerUnavailableError
from client.grpc_request import SequenceFlags, encoded_request
from client.stream.sequence_stream import Outputs, SequenceStream, StartRequiredError
from client.stream.session import NEARLY, Request, SequenceLostError, Session
from client.stream.state import FeedState, Floats, Ints, Work
from client.stream.statistics import ReplayReason
from client.stream.track_table import Slots
from reentry.errors import ClientError
from reentry.schema import LARGEST_SCAN, MEASUREMENT_COLUMNS, REENTRY_SCAN, SCAN_MEASUREMENTS, SCAN_TRACK_ID, STARTED

_WINDOW: Final = 4
"""Scans in flight: the server computes one while the next ones travel."""
_SURELY: Final = 1.1
"""Multiple of the idle time after which the server has dropped a silent track."""

_log = logging.getLogger(__name__)


class ScanSession(Session[Request]):
    """One connection of a feed in mode `scan`."""

    def __init__(
        self, state: FeedState, stream: SequenceStream, *, timeout: float, idle: float, reason: ReplayReason
    ) -> None:
        super().__init__(state, stream, window=_WINDOW, timeout=timeout, idle=_SURELY * idle, reason=reason)
        self._nearly_idle = NEARLY * idle
        self._begun = False

    async def _send(self, work: Work) -> None:
        started = self._state.tracks.started
        unknown = work.slots[~started[work.slots]]
        if len(unknown):
            started[unknown] = True
            replay = self._state.replay_of(unknown, self._reason)
            for first in range(0, len(replay.slots), LARGEST_SCAN):
                await self._scan(
                    Request(replay, slice(first, first + LARGEST_SCAN), start=not self._begun),
                    replay.slots[first : first + LARGEST_SCAN],
                    replay.rows[first : first + LARGEST_SCAN],
                )
        await self._scan(Request(work, slice(0, len(work.slots)), start=not self._begun), work.slots, work.rows)

    async def _scan(self, request: Request, slots: Slots, rows: Floats) -> None:
        self._begun = True
        track_ids = self._state.tracks.track_id[slots]
        await self._put(request, lambda identity: self._encoded(identity, track_ids, rows, start=request.start))

    def _encoded(
        self, identity: str, track_ids: Ints, rows: Floats, *, start: bool = False, end: bool = False
    ) -> bytes:
        return encoded_request(
            REENTRY_SCAN,
            {SCAN_TRACK_ID.name: track_ids, SCAN_MEASUREMENTS.name: rows},
            request_id=identity,
            sequence=SequenceFlags(correlation_id=self._state.name, start=start, end=end),
        )

    def _take(self, request: Request, outputs: Outputs) -> None:
        if isinstance(request.source, Work):
            self._check_started(request.source, outputs)
        super()._take(request, outputs)

    def _check_started(self, work: Work, outputs: Outputs) -> None:
        """Compare the tracks that the server began with those that are live.

        Raises:
            SequenceLostError: the server has lost a track.
        """
        begun = np.flatnonzero(outputs[STARTED.name])
        if not len(begun):
            return
        tracks, slots = self._state.tracks, work.slots[begun]
        lost = tracks.accepted[slots] > tracks.first_kept[slots]
        if not lost.any():
            return
        if (work.silence[begun][lost] < self._nearly_idle).any():
            raise SequenceLostError("restarted", f"the server has lost {np.count_nonzero(lost)} live tracks")
        self._state.begin_anew(slots[lost])

    def _refused(self, request: Request, error: RefusedError) -> None:
        if request.source is None:
            return
        if isinstance(error, StartRequiredError):
            is_expired = isinstance(request.source, Work) and self._silent_for(request.source) > self._nearly_idle
            raise SequenceLostError("expired" if is_expired else "restarted", error.problem)
        if not isinstance(request.source, Work):
            raise ServerUnavailableError(f"the server refused a replay: {error.problem}", where=self._stream.address)
        _log.error("feed %s: the server refused a scan: %s", self._state.name, error.problem)
        self._state.refuse(request.source, request.positions, error.problem, "refused")

    def _silent_for(self, work: Work) -> float:
        """Shortest silence of the tracks of a scan, s."""
        return float(work.silence.min())

    async def _check_slot(self, request: Request) -> None:
        if request.start and await self._stream.is_ready():
            raise ClientError(
                f"the server has no free sequence for the feed {self._state.name}: no answer within "
                f"{self._timeout:g} s to its first scan",
                where=self._stream.address,
                fix=f"end other feeds, or raise max_candidate_sequences in the config.pbtxt of {REENTRY_SCAN.name}",
            )

    def _dropped(self, slots: Slots) -> None:
        """Do nothing: the server drops silent tracks itself."""

    async def _end(self) -> None:
        if self._begun:
            track_ids, rows = np.zeros(0, np.int64), np.zeros((0, len(MEASUREMENT_COLUMNS)))
            await self._put(
                Request(None, slice(0)), lambda identity: self._encoded(identity, track_ids, rows, end=True)
            )
            await self._answered()
