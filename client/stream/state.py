"""What a feed knows and keeps while connections come and go: its tracks, their measurements, and what is unanswered.

Shapes: N measurements of one call, M measurement columns.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from client.stream.alert import Alert, Answers, Refinement
from client.stream.refinement import due_refinements
from client.stream.replay_buffer import Replay, ReplayBuffer
from client.stream.sequence_stream import Outputs
from client.stream.statistics import Rejection, ReplayReason, Statistics
from client.stream.track_table import Slots, TrackTable
from reentry.schema import (
    ACCEPTED,
    INVALID,
    MEASUREMENT_COLUMNS,
    MODEL_VERSION,
    ONSET,
    ONSET_TIMESTAMP,
    PHASE,
    PROBABILITY,
    SCAN_REFINED_DEVIATION,
    SCAN_REFINED_ONSET,
    TIMESTAMP,
)

_TIME: Final = MEASUREMENT_COLUMNS.index(TIMESTAMP.name)

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Work:
    """Measurements that were handed to the feed in one call, until all of them are answered."""

    number: int
    """Position among all calls of the feed."""
    slots: Slots
    """Track of each measurement, (N,)."""
    rows: Floats
    """Measurements, (N, M)."""
    handed: float
    """Monotonic time of the call, s."""
    silence: Floats
    """Time since the previous answer to a valid measurement of each track, (N,), s."""
    answers: Answers
    future: asyncio.Future[Answers]
    unanswered: npt.NDArray[np.bool_] = field(init=False)
    """Whether each measurement still waits for its answer, (N,)."""
    left: int = field(init=False)
    """Number of those that do."""

    def __post_init__(self) -> None:
        self.unanswered = np.ones(len(self.slots), np.bool_)
        self.left = len(self.slots)


class FeedState:
    """State of one feed that outlives its connections."""

    def __init__(
        self,
        name: str,
        *,
        buffer: int,
        on_alert: Callable[[Alert], None] | None = None,
        on_refinement: Callable[[Refinement], None] | None = None,
    ) -> None:
        self.name = name
        self.sequence = f"{name}/{secrets.token_hex(4)}"
        """Name of its sequences on the server. The random part keeps clients apart that use the same name."""
        self.tracks = TrackTable()
        self.buffer = ReplayBuffer(self.tracks, buffer)
        self.statistics = Statistics()
        self.works: dict[Work, None] = {}
        """Unanswered work in the order of the calls."""
        self.model_version = 0
        """Version of the network that gave the latest answer."""
        self._on_alert, self._on_refinement = on_alert, on_refinement
        self._calls = 0

    def hand(self, track_ids: Ints, rows: Floats) -> Work:
        """Take measurements, (N,) and (N, M), as new work."""
        now = time.monotonic()
        slots = self.tracks.slots_of(track_ids, now)
        last = self.tracks.last_seen[slots]
        work = Work(
            number=self._calls,
            slots=slots,
            rows=rows,
            handed=now,
            silence=now - last,
            answers=Answers.empty(len(rows)),
            future=asyncio.get_running_loop().create_future(),
        )
        self._calls += 1
        work.future.add_done_callback(_mark_retrieved)
        self.works[work] = None
        return work

    def take(self, work: Work, positions: slice, outputs: Outputs) -> None:
        """Take the answers to measurements of a call."""
        now = time.monotonic()
        answers, slots, rows = work.answers, work.slots[positions], work.rows[positions]
        accepted = outputs[ACCEPTED.name]
        answers.probability[positions] = outputs[PROBABILITY.name]
        answers.phase[positions] = outputs[PHASE.name]
        answers.onset[positions] = outputs[ONSET.name]
        answers.onset_timestamp[positions] = outputs[ONSET_TIMESTAMP.name]
        if SCAN_REFINED_ONSET.name in outputs:
            answers.refined_onset_timestamp[positions] = outputs[SCAN_REFINED_ONSET.name]
            answers.refined_onset_deviation[positions] = outputs[SCAN_REFINED_DEVIATION.name]
        answers.accepted[positions] = accepted
        count = int(np.count_nonzero(accepted))
        if count < len(slots):
            invalid = int(np.count_nonzero(outputs[PHASE.name] == INVALID[PHASE.name]))
            self.statistics.rejected["invalid"] += invalid
            self.statistics.rejected["late"] += len(slots) - count - invalid
            moved = accepted != 0
            self.buffer.append(slots[moved], rows[moved], work.handed)
        else:
            self.buffer.append(slots, rows, work.handed)
        self._show(slots, rows, work.handed, outputs, now)
        answers.model_version = self.model_version
        self._finish(work, positions, now)

    def take_replay(self, replay: Replay, positions: slice, outputs: Outputs) -> None:
        """Take the answers to measurements of a replay: alerts and refinements that were not given yet."""
        accepted = outputs[ACCEPTED.name]
        self.statistics.replayed_measurements += len(accepted)
        rejected = len(accepted) - int(np.count_nonzero(accepted))
        if rejected:  # the server accepted them before
            _log.warning(
                "feed %s: %d measurements of a replay were not accepted; probabilities may differ", self.name, rejected
            )
        now = time.monotonic()
        self._show(replay.slots[positions], replay.rows[positions], replay.handed[positions], outputs, now)

    def refuse(self, work: Work, positions: slice, reason: str, why: Rejection) -> None:
        """Give measurements up, because the server does not score them."""
        numbers = range(*positions.indices(len(work.slots)))
        work.answers.refusals.update(dict.fromkeys(numbers, reason))
        self.statistics.rejected[why] += len(numbers)
        self._finish(work, positions, time.monotonic())

    def fail(self, error: BaseException) -> None:
        """End all unanswered work with an error."""
        for work in self.works:
            if not work.future.done():
                work.future.set_exception(error)
        self.works.clear()

    def abandon(self) -> None:
        """Forget unanswered work for which nobody waits any more."""
        for work in self.works:
            work.future.cancel()
        self.works.clear()

    def replay_of(self, slots: Slots, reason: ReplayReason) -> Replay:
        """Return what to replay for tracks that the server does not know, and count it."""
        tracks = self.tracks
        known = np.unique(slots)
        known = known[tracks.accepted[known] > tracks.first_kept[known]]
        truncated = int(np.count_nonzero(tracks.truncated[known]))
        if truncated:
            self.statistics.truncated_replays += truncated
            _log.warning(
                "feed %s: %d tracks are replayed without their first measurements, which the buffer no longer holds; "
                "their probabilities may differ",
                self.name,
                truncated,
            )
        if len(known):
            self.statistics.replays[reason] += len(known)
        return self.buffer.replay_of(known)

    def begin_again(self, slots: Slots) -> None:
        """Regard tracks as new ones, because the server dropped them after a silence."""
        self.buffer.forget(slots)
        self.tracks.alerted[slots] = False

    def drop_silent(self, longest: float) -> Slots:
        """Drop the tracks that were silent for too long and have no unanswered measurement; return their slots."""
        tracks = self.tracks
        live = tracks.live_slots
        silent = live[tracks.last_seen[live] < time.monotonic() - longest]
        if len(silent) and self.works:
            silent = np.setdiff1d(silent, np.concatenate([work.slots for work in self.works]))
        if len(silent):
            tracks.drop(silent)
        return silent

    def _show(self, slots: Slots, rows: Floats, handed: Floats | float, outputs: Outputs, now: float) -> None:
        """Note the latest probability and phase of the tracks, and give the alerts and their refinements."""
        valid = outputs[PHASE.name] != INVALID[PHASE.name]
        shown, probability, phase = slots, outputs[PROBABILITY.name], outputs[PHASE.name]
        if not valid.all():
            shown, probability, phase = slots[valid], probability[valid], phase[valid]
        self.tracks.last_seen[shown] = now
        self.tracks.probability[shown] = probability
        self.tracks.phase[shown] = phase
        self.model_version = int(outputs[MODEL_VERSION.name][0]) or self.model_version
        for position in np.flatnonzero(outputs[ONSET.name]).tolist():
            slot = slots[position]
            if self.tracks.alerted[slot]:
                continue
            latency = now - float(handed if isinstance(handed, float) else handed[position])
            self._alert(
                slot,
                onset_timestamp=float(outputs[ONSET_TIMESTAMP.name][position]),
                detected_at=float(rows[position, _TIME]),
                probability=float(outputs[PROBABILITY.name][position]),
                latency=latency,
            )
        if SCAN_REFINED_ONSET.name in outputs:
            self._refine(slots, rows[:, _TIME], outputs)

    def _alert(
        self, slot: int, *, onset_timestamp: float, detected_at: float, probability: float, latency: float
    ) -> None:
        self.tracks.alerted[slot] = True
        self.tracks.alert_onset[slot] = onset_timestamp
        for column in (self.tracks.refinements, self.tracks.given_hindsight, self.tracks.refined_deviation):
            column[slot] = 0
        self.statistics.alerts += 1
        self.statistics.alert_latency.add(latency)
        alert = Alert(
            feed=self.name,
            track_id=int(self.tracks.track_id[slot]),
            onset_timestamp=onset_timestamp,
            detected_at=detected_at,
            probability=probability,
            model_version=self.model_version,
            latency_ms=1e3 * latency,
        )
        if self._on_alert is not None:
            self._on_alert(alert)

    def _refine(self, slots: Slots, timestamp: Floats, outputs: Outputs) -> None:
        due = due_refinements(
            self.tracks,
            slots,
            timestamp,
            outputs[SCAN_REFINED_ONSET.name],
            outputs[SCAN_REFINED_DEVIATION.name],
            outputs[ACCEPTED.name] != 0,
        )
        for slot, onset in due:
            refinement = Refinement(
                feed=self.name,
                track_id=int(self.tracks.track_id[slot]),
                onset_timestamp=float(self.tracks.alert_onset[slot]),
                refined_onset_timestamp=onset.timestamp,
                refined_onset_deviation=onset.deviation,
                hindsight_seconds=onset.hindsight,
                model_version=self.model_version,
            )
            self.statistics.refinements += 1
            if self._on_refinement is not None:
                self._on_refinement(refinement)

    def _finish(self, work: Work, positions: slice, now: float) -> None:
        count = positions.stop - positions.start
        work.unanswered[positions] = False
        work.left -= count
        self.statistics.updates += count
        self.statistics.update_latency.add(now - work.handed, count)
        if not work.left:
            self.works.pop(work, None)
            if not work.future.done():
                work.future.set_result(work.answers)


def _mark_retrieved(future: asyncio.Future[Answers]) -> None:
    """Keep asyncio quiet about an error that a cancelled caller does not retrieve."""
    if not future.cancelled():
        future.exception()
