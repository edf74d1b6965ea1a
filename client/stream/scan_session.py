"""A feed as one sequence: each scan is one request, and the server keeps the tracks of the feed.

Shapes: N measurements of one scan, M measurement columns.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from client.connection import RefusedError, ServerUnavailableError
from client.grpc_request import SequenceFlags, encoded_request
from client.stream.replay_buffer import Replay
from client.stream.sequence_stream import Outputs, SequenceStream, StartRequiredError
from client.stream.session import NEARLY, SequenceLostError, Session
from client.stream.state import FeedState, Floats, Ints, Work
from client.stream.statistics import ReplayReason
from client.stream.track_table import Slots
from reentry.errors import ClientError
from reentry.schema import (
    LARGEST_SCAN,
    MEASUREMENT_COLUMNS,
    MODEL_VERSION,
    REENTRY_SCAN,
    SCAN_MEASUREMENTS,
    SCAN_TRACK_ID,
    STARTED,
)

_WINDOW: Final = 4
"""Scans in flight: the server computes one while the next ones travel."""
_SURELY: Final = 1.1
"""Multiple of the idle time after which the server has dropped a silent track."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Scan:
    """One request: the measurements of some calls, a part of a replay, or nothing at the end of the sequence."""

    works: list[Work] = field(default_factory=list)
    replay: Replay | None = None
    start: bool = False
    """Whether the sequence begins."""


class ScanSession(Session[_Scan]):
    """One connection of a feed in mode `scan`."""

    def __init__(
        self, state: FeedState, stream: SequenceStream, *, timeout: float, idle: float, reason: ReplayReason
    ) -> None:
        super().__init__(state, stream, window=_WINDOW, timeout=timeout, idle=_SURELY * idle, reason=reason)
        self._nearly_idle = NEARLY * idle
        self._begun = False

    async def _send(self, works: list[Work]) -> None:
        for group in _grouped(works):
            slots, rows = group[0].slots, group[0].rows
            if len(group) > 1:
                slots, rows = np.concatenate([work.slots for work in group]), np.concatenate([w.rows for w in group])
            await self._replay(slots)
            await self._scan(_Scan(works=group, start=not self._begun), slots, rows)

    async def _replay(self, slots: Slots) -> None:
        """Send the earlier measurements of those tracks that this connection has not seen yet."""
        started = self._state.tracks.started
        unknown = slots[~started[slots]]
        if len(unknown):
            started[unknown] = True
            replay = self._state.replay_of(unknown, self._reason)
            for first in range(0, len(replay.slots), LARGEST_SCAN):
                part = replay.part(slice(first, first + LARGEST_SCAN))
                await self._scan(_Scan(replay=part, start=not self._begun), part.slots, part.rows)

    async def _scan(self, scan: _Scan, slots: Slots, rows: Floats) -> None:
        self._begun = True
        track_ids = self._state.tracks.track_id[slots]
        await self._put(scan, lambda identity: self._encoded(identity, track_ids, rows, start=scan.start))

    def _encoded(
        self, identity: str, track_ids: Ints, rows: Floats, *, start: bool = False, end: bool = False
    ) -> bytes:
        return encoded_request(
            REENTRY_SCAN,
            {SCAN_TRACK_ID.name: track_ids, SCAN_MEASUREMENTS.name: rows},
            request_id=identity,
            sequence=SequenceFlags(correlation_id=self._state.sequence, start=start, end=end),
        )

    def _take(self, request: _Scan, outputs: Outputs) -> None:
        if request.replay is not None:
            self._state.take_replay(request.replay, slice(0, len(request.replay.slots)), outputs)
        first = 0
        for work in request.works:
            part = outputs
            if len(request.works) > 1:
                own = slice(first, first + len(work.slots))
                part = {name: x if name == MODEL_VERSION.name else x[own] for name, x in outputs.items()}
                first = own.stop
            self._check_started(work, part)
            self._state.take(work, slice(0, len(work.slots)), part)

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
        self._state.begin_again(slots[lost])

    def _refused(self, request: _Scan, error: RefusedError) -> None:
        if request.replay is None and not request.works:
            return
        if isinstance(error, StartRequiredError):
            silence = min((float(work.silence.min()) for work in request.works), default=0.0)
            raise SequenceLostError("expired" if silence > self._nearly_idle else "restarted", error.problem)
        if request.replay is not None:
            raise ServerUnavailableError(f"the server refused a replay: {error.problem}", where=self._stream.address)
        _log.error("feed %s: the server refused a scan: %s", self._state.name, error.problem)
        for work in request.works:
            self._state.refuse(work, slice(0, len(work.slots)), error.problem, "refused")

    async def _check_slot(self, request: _Scan) -> None:
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
            await self._put(_Scan(), lambda identity: self._encoded(identity, track_ids, rows, end=True))
            await self._answered()


def _grouped(works: list[Work]) -> Iterator[list[Work]]:
    """Join calls that wait at the same time into scans of up to `LARGEST_SCAN` measurements."""
    group: list[Work] = []
    size = 0
    for work in works:
        if group and size + len(work.slots) > LARGEST_SCAN:
            yield group
            group, size = [], 0
        group.append(work)
        size += len(work.slots)
    if group:
        yield group
