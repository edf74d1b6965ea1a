"""The live tracks of one feed, kept as arrays: what the Triton model for scans computes.

Shapes: N measurements of a scan, B tracks of the feed or some of them, M measurement columns, F features, S numbers of
the network's state.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from reentry import live_tracks
from reentry.arrays import Array
from reentry.features.groups import names_with
from reentry.features.history import LiveState, LiveTracks
from reentry.refinement import LiveRefinement
from reentry.schema import (
    FEATURES,
    INVALID,
    LARGEST_SCAN,
    MEASUREMENT_COLUMNS,
    NOT_REFINED,
    ONSET_TIMESTAMP,
    PHASE,
    PROBABILITY,
    TIMESTAMP,
)
from reentry.triton.checks import cause_of, is_probability

_TIME: Final = MEASUREMENT_COLUMNS.index(TIMESTAMP.name)

LARGEST_FEED: Final = 20_000
"""Maximum number of live tracks of a feed; with all features and refined onsets their state takes about
150 MB."""

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
Network = Callable[[Float32, Float32], tuple[Float32, Float32, int]]
"""Function from features (B, F) and state (B, S) to the probability (B, 1), the next state (B, S) and the version. A
state (B, 1) of zeros is the start of a track. Features that were not computed are NaN."""


PriorOf = Callable[[int], npt.NDArray[np.float64] | None]
"""Function from a version to its prior of ballistic coefficients, see `reentry.refinement`."""


class LostFeedError(Exception):
    """The state of the feed cannot be used any more; its tracks must be sent again from their first measurement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanAnswer:
    """Answer to a scan, (N,) each; the fields are described in `schema.REENTRY_SCAN`."""

    reentry_probability: Float32
    reentry_phase: npt.NDArray[np.uint8]
    onset: npt.NDArray[np.uint8]
    onset_timestamp: npt.NDArray[np.float64]
    refined_onset_timestamp: npt.NDArray[np.float64]
    refined_onset_deviation: npt.NDArray[np.float64]
    accepted: npt.NDArray[np.uint8]
    started: npt.NDArray[np.uint8]

    @classmethod
    def invalid(cls, rows: int) -> ScanAnswer:
        """Return the answer to invalid measurements, to be filled in for the others."""
        nothing = np.zeros((3, rows), np.uint8)
        return cls(
            reentry_probability=np.full(rows, INVALID[PROBABILITY.name], np.float32),
            reentry_phase=np.full(rows, INVALID[PHASE.name], np.uint8),
            onset_timestamp=np.full(rows, INVALID[ONSET_TIMESTAMP.name]),
            refined_onset_timestamp=np.full(rows, NOT_REFINED),
            refined_onset_deviation=np.full(rows, NOT_REFINED),
            onset=nothing[0],
            accepted=nothing[1],
            started=nothing[2],
        )


class LiveFeed:
    """The live tracks of one feed."""

    def __init__(
        self,
        network: Network,
        *,
        groups: frozenset[str],
        idle: float,
        clock: Callable[[], float] = time.monotonic,
        prior_of: PriorOf | None = None,
    ) -> None:
        """Begin a feed without tracks.

        Args:
            network: the network.
            groups: groups of `schema.COSTLY_GROUPS` to compute.
            idle: time without a measurement after which a track is dropped, s.
            clock: current time, s.
            prior_of: priors of the versions of the network; None if no version has one.
        """
        self.groups = groups
        self.version: int | None = None
        """Version of the network; None before the first answer."""
        self._network, self._idle, self._clock = network, idle, clock
        self._names = names_with(groups)
        self._tracks: Int64 = np.zeros(0, np.int64)
        self._sorter: Int64 | None = None
        self._seen = np.zeros(0)
        self._started = np.zeros(0, bool)
        self._state: LiveState | None = None
        self._prior_of = prior_of
        self._refinement: LiveRefinement | None = None  # exists once the version is known to have a prior

    def __len__(self) -> int:
        """Number of live tracks."""
        return len(self._tracks)

    def drop_silent(self) -> int:
        """Drop the tracks that had no measurement for the idle time; return their number."""
        silent = self._clock() - self._seen > self._idle
        if not silent.any():
            return 0
        kept = np.flatnonzero(~silent)
        self._state = None if self._state is None else _part(self._state, kept)
        self._tracks, self._seen, self._started = self._tracks[kept], self._seen[kept], self._started[kept]
        self._sorter = None
        if self._refinement is not None:
            self._refinement.keep(kept)
        return int(silent.sum())

    def scan(self, track_id: Int64, measurements: npt.NDArray[np.float64]) -> ScanAnswer:
        """Advance tracks by the measurements of a scan, in their order.

        Args:
            track_id: track of each measurement, (N,).
            measurements: the measurements, (N, M).

        Raises:
            ValueError: the scan has another shape or size, or the feed would have more than `LARGEST_FEED` tracks.
                Nothing has changed.
            LostFeedError: another version of the network answered, or a value that is no probability. The state is
                unusable.
        """
        _require_scan(track_id, measurements)
        columns = np.ascontiguousarray(measurements.T)
        valid = np.flatnonzero(live_tracks.is_valid(columns))
        answer = ScanAnswer.invalid(len(track_id))
        if not len(valid):
            return answer
        places = self._places(track_id[valid])
        self._seen[places] = self._clock()
        for turn in _turns(places):
            self._advance(columns, valid[turn], places[turn], answer)
        return answer

    def _places(self, tracks: Int64) -> Int64:
        """Return the places of tracks (N,) in the arrays of the feed; tracks that it does not know are added."""
        if len(tracks) == len(self) and np.array_equal(tracks, self._tracks):
            return np.arange(len(self))
        known = self._found(tracks)[1]
        if not known.all():
            new = tracks[~known]
            new = new[
                np.sort(np.unique(new, return_index=True)[1])
            ]  # in their order, so that a scan matches the arrays
            if len(self) + len(new) > LARGEST_FEED:
                raise ValueError(
                    f"too many live tracks in one feed. Expected: at most {LARGEST_FEED:,}. Got: {len(self):,} and "
                    f"{len(new):,} new ones. Fix: split the tracks into several feeds"
                )
            self._tracks = np.concatenate([self._tracks, new])
            self._seen = np.concatenate([self._seen, np.zeros(len(new))])
            self._started = np.concatenate([self._started, np.zeros(len(new), bool)])
            self._state = None if self._state is None else _widened(self._state, len(new))
            self._sorter = None
            if self._refinement is not None:
                self._refinement.widen(len(new))
        return self._found(tracks)[0]

    def _found(self, tracks: Int64) -> tuple[Int64, npt.NDArray[np.bool_]]:
        """Return the place of each track (N,), and whether the feed knows it."""
        if not len(self):
            return np.zeros(len(tracks), np.int64), np.zeros(len(tracks), bool)
        if self._sorter is None:
            self._sorter = np.argsort(self._tracks)
        found = np.searchsorted(self._tracks, tracks, sorter=self._sorter)
        places = self._sorter[np.minimum(found, len(self) - 1)]
        return places, self._tracks[places] == tracks

    def _advance(self, columns: Array, rows: Int64, places: Int64, answer: ScanAnswer) -> None:
        """Advance different tracks by one measurement each, and fill in their answers.

        Args:
            columns: measurements of the scan, (M, N).
            rows: the rows of the scan to use, (B,).
            places: the places of their tracks, (B,).
            answer: the answer of the scan.
        """
        measurement = columns if len(rows) == columns.shape[1] else columns[:, rows]
        first = ~self._started[places]
        if self._state is not None and not first.all():
            before = self._before(places)
            moves = first | live_tracks.is_fresh(measurement, before)
            if not moves.all():
                stay = np.flatnonzero(~moves)
                _fill(answer, rows[stay], live_tracks.answer_of(_part(before, stay)))
                kept = np.flatnonzero(moves)
                measurement, rows, places, first = measurement[:, kept], rows[kept], places[kept], first[kept]
        if len(rows):
            self._move(measurement, rows, places, first, answer)

    def _move(self, measurement: Array, rows: Int64, places: Int64, first: Array, answer: ScanAnswer) -> None:
        """Advance tracks by fresh measurements, (M, B)."""
        before = None if self._state is None else self._before(places)
        history = LiveTracks(before, first if before is not None and first.any() else None)
        table = np.full((len(rows), len(FEATURES)), np.nan, np.float32)
        with np.errstate(all="ignore"):  # features that do not fit in float32 are found by the step
            step = live_tracks.step(
                measurement, history, self._names, lambda features: self._scored(features, table, history)
            )
        after, begins, timestamp = history.after, step.begins, measurement[_TIME]
        if not step.finite.all():
            kept = np.flatnonzero(step.finite)
            after, rows, places, first, begins = _part(after, kept), rows[kept], places[kept], first[kept], begins[kept]
            table, timestamp = table[kept], timestamp[kept]
        if self._is_all(places):
            self._state = after
        else:
            if self._state is None:
                self._state = _widened(_part(after, np.zeros(0, np.int64)), len(self))
            for whole, part in zip(_arrays(self._state), _arrays(after), strict=True):
                whole[..., places] = part
        self._started[places] = True
        _fill(answer, rows, live_tracks.answer_of(after))
        answer.accepted[rows] = 1
        answer.started[rows] = first
        answer.onset[rows] = begins
        if self._refinement is not None:
            answer.refined_onset_timestamp[rows], answer.refined_onset_deviation[rows] = self._refinement.advance(
                places, table, timestamp, answer.onset_timestamp[rows]
            )

    def _before(self, places: Int64) -> LiveState:
        """Return the state of some tracks; that of all is not copied."""
        assert self._state is not None
        return self._state if self._is_all(places) else _part(self._state, places)

    def _is_all(self, places: Int64) -> bool:
        """Return whether places are those of all tracks in their order."""
        return len(places) == len(self) and np.array_equal(places, np.arange(len(self)))

    def _scored(self, features: dict[str, Float32], table: Float32, history: LiveTracks) -> Float32:
        """Return the probability of each track, (B, 1), and keep the state of the network in the history.

        The features are written to the table, (B, F).
        """
        (state,), keep = history.carried([np.zeros((1, 1), np.float32)])
        for name, column in features.items():
            table[:, FEATURES.index(name)] = column
        state = np.broadcast_to(state, (len(table), state.shape[1]))
        probability, after, version = self._network(table, np.ascontiguousarray(state))
        if self.version not in (None, version):
            raise LostFeedError(f"the network changed from version {self.version} to version {version}")
        if not (valid := is_probability(probability)).all():
            wrong = float(probability[~valid][0])
            raise LostFeedError(
                f"version {version} of the network does not work: expected {PROBABILITY.name} from 0 to 1, "
                f"got {wrong}{cause_of(wrong)}"
            )
        if self.version is None and self._prior_of is not None and (prior := self._prior_of(version)) is not None:
            self._refinement = LiveRefinement(prior)
            self._refinement.widen(len(self))
        self.version = version
        keep([after])
        return probability


def _require_scan(track_id: npt.NDArray[Any], measurements: npt.NDArray[Any]) -> None:
    """Reject a scan of the wrong shape or size.

    Raises:
        ValueError: names what is expected.
    """
    rows = len(track_id)
    if measurements.shape != (rows, len(MEASUREMENT_COLUMNS)):
        raise ValueError(
            f"track_id and measurements do not match. Expected: shapes (N,) and (N, {len(MEASUREMENT_COLUMNS)}). "
            f"Got: {track_id.shape} and {measurements.shape}"
        )
    if not 1 <= rows <= LARGEST_SCAN:
        raise ValueError(
            f"the scan has {rows:,} measurements. Expected: 1 to {LARGEST_SCAN:,}. Fix: split it into several scans"
        )


def _turns(places: Int64) -> list[Int64]:
    """Split rows so that each track occurs once in a part: the first rows of all tracks, the second rows, and so on."""
    order = np.argsort(places, kind="stable")
    ordered = places[order]
    begins = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    if len(begins) == len(places):
        return [np.arange(len(places))]
    number = np.arange(len(places)) - np.repeat(begins, np.diff([*begins, len(places)]))
    occurrence = np.empty_like(number)
    occurrence[order] = number
    return [np.flatnonzero(occurrence == turn) for turn in range(int(number.max()) + 1)]


def _fill(answer: ScanAnswer, rows: Int64, known: live_tracks.Answer) -> None:
    """Fill in what is known of the tracks of some rows."""
    answer.reentry_probability[rows] = known.probability[:, 0]
    answer.reentry_phase[rows] = known.phase[:, 0]
    answer.onset_timestamp[rows] = known.onset_timestamp[:, 0]


def _arrays(state: LiveState) -> Sequence[Array]:
    """Return the arrays of a state with the tracks along the last axis."""
    return [array.swapaxes(-1, -2) for array in (*state.kept, *state.recent)]


def _like(state: LiveState, arrays: Sequence[Array]) -> LiveState:
    """Reverse `_arrays`."""
    arrays = [array.swapaxes(-1, -2) for array in arrays]
    return LiveState(arrays[: len(state.kept)], arrays[len(state.kept) :])


def _part(state: LiveState, places: Int64) -> LiveState:
    """Return the state of some tracks, whose tracks are contiguous in memory again."""
    return _like(state, [array.take(places, axis=-1) for array in _arrays(state)])


def _widened(state: LiveState, more: int) -> LiveState:
    """Add tracks that have not started."""
    return _like(
        state,
        [np.concatenate([x, np.zeros((*x.shape[:-1], more), x.dtype)], axis=-1) for x in _arrays(state)],
    )
