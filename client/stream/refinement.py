"""When the refined onset of an alert is given: first soon after the alert, and at last with all that will be known.

The server refines an onset with each measurement until 20 s after the alert. A feed passes on the refined onset at the
first measurement at or after each of `HINDSIGHTS`. What was passed on lies in the table of tracks, so a replay changes
nothing.

Shapes: N measurements.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from client.stream.track_table import Bools, Slots, TrackTable, ranks
from reentry.refinement import LONGEST_HINDSIGHT, RefinedOnset

HINDSIGHTS: Final = (2.0, 5.0, 10.0, LONGEST_HINDSIGHT)
"""Times after the alert from which its refined onset is given, s. At the last one, it is that of the last measurement
which the server uses, as for a whole track."""

Floats = npt.NDArray[np.float64]


class DueRefinement(NamedTuple):
    """A refined onset to be given."""

    slot: int
    onset: RefinedOnset


def due_refinements(
    tracks: TrackTable, slots: Slots, timestamp: Floats, refined: Floats, deviation: Floats, accepted: Bools
) -> Iterator[DueRefinement]:
    """Note the refined onsets of an answer, and yield those that are due, in the order of the measurements.

    Args:
        tracks: the tracks.
        slots: track of each measurement, (N,).
        timestamp: time of each measurement, (N,), s.
        refined: refined onset at each measurement, (N,), s.
        deviation: its standard deviation, (N,), s; not positive if the refined onset is unknown.
        accepted: whether each measurement was accepted, (N,).
    """
    hindsight = timestamp - tracks.alert_onset[slots]
    awaited = tracks.alerted[slots] & (tracks.refinements[slots] < len(HINDSIGHTS))
    rows = np.flatnonzero(accepted & awaited & (hindsight >= 0.0))
    if not len(rows):
        return
    number = ranks(slots[rows])
    for turn in range(int(number.max()) + 1):  # each track occurs once in a turn
        of_turn = rows[number == turn]
        # A version with an earlier alarm, which may answer a replay, refines for a shorter time: what is known stays.
        known = deviation[of_turn] > 0.0
        used = of_turn[known & (hindsight[of_turn] <= LONGEST_HINDSIGHT)]
        tracks.refined[slots[used]] = refined[used]
        tracks.refined_deviation[slots[used]] = deviation[used]
        tracks.refined_hindsight[slots[used]] = hindsight[used]
        passed = np.searchsorted(HINDSIGHTS, hindsight[of_turn], side="right")
        # An unknown onset is due at the next measurement, but at the last hindsight the latest known one is given.
        ready = (passed > tracks.refinements[slots[of_turn]]) & (known | (passed == len(HINDSIGHTS)))
        for row, stage in zip(of_turn[ready].tolist(), passed[ready].tolist(), strict=True):
            found = _taken(tracks, int(slots[row]), stage)
            if found is not None:
                yield DueRefinement(int(slots[row]), found)


def _taken(tracks: TrackTable, slot: int, stage: int) -> RefinedOnset | None:
    """Return the latest refined onset of a track unless it is unknown or was given, and count the stages passed."""
    onset = RefinedOnset(
        float(tracks.refined[slot]), float(tracks.refined_deviation[slot]), float(tracks.refined_hindsight[slot])
    )
    is_new = tracks.refinements[slot] == 0 or onset.hindsight > tracks.given_hindsight[slot]
    is_due = onset.deviation > 0.0 and bool(is_new)
    if is_due or stage == len(HINDSIGHTS):
        tracks.refinements[slot] = stage
    if not is_due:
        return None
    tracks.given_hindsight[slot] = onset.hindsight
    return onset
