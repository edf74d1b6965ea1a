"""The refined onset of an alert is given at 2, 5, 10 and 20 s, once each, whatever is replayed."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest

from client.stream.alert import Alert, Answers, Refinement
from client.stream.sequence_stream import Outputs
from client.stream.state import FeedState

ALARM = 1000.0


class Feed:
    """A state of which alerts and refinements are collected, with a server that refines the onset of each track.

    The onset of each track is at `ALARM`. After h seconds the refined onset is `ALARM` - h / 100, and its deviation is
    1 / (1 + h), unless it is unknown.
    """

    def __init__(self) -> None:
        self.events: list[Alert | Refinement] = []
        self.state = FeedState("radar", buffer=1000, on_alert=self.events.append, on_refinement=self.events.append)

    def outputs(self, times: np.ndarray, unknown: tuple[float, ...] = ()) -> Outputs:
        hindsight = times - ALARM
        known = (hindsight >= 0.0) & (hindsight <= 20.0) & ~np.isin(times, unknown)
        return {
            "reentry_probability": np.full(len(times), 0.75, np.float32),
            "reentry_phase": (hindsight >= 0.0).astype(np.uint8),
            "onset": (hindsight == 0.0).astype(np.uint8),
            "onset_timestamp": np.where(hindsight >= 0.0, ALARM, -1.0),
            "refined_onset_timestamp": np.where(known, ALARM - hindsight / 100.0, -1.0),
            "refined_onset_deviation": np.where(known, 1.0 / (1.0 + np.maximum(hindsight, 0.0)), -1.0),
            "accepted": np.ones(len(times), np.uint8),
            "model_version": np.array([3]),
        }

    def send(self, *times: float, track: int = 7, unknown: tuple[float, ...] = ()) -> Answers:
        """Answer one call with measurements of a track at times after the alarm."""
        stamps = ALARM + np.array(times)

        async def answered() -> Answers:
            rows = np.zeros((len(times), 6))
            rows[:, 0] = stamps
            work = self.state.hand(np.full(len(times), track), rows)
            self.state.take(work, slice(0, len(times)), self.outputs(stamps, tuple(ALARM + each for each in unknown)))
            return await work.future

        return asyncio.run(answered())

    def replay(self, track: int = 7) -> None:
        slots = self.state.tracks.slots_of(np.array([track]), 0.0)
        replay = self.state.replay_of(slots, "lost_server")
        self.state.take_replay(replay, slice(0, len(replay.slots)), self.outputs(replay.rows[:, 0]))

    def hindsights(self, track: int = 7) -> list[float]:
        """Hindsight of the refinements that were given for a track."""
        return [
            event.hindsight_seconds
            for event in self.events
            if isinstance(event, Refinement) and event.track_id == track
        ]


def test_a_refinement_names_its_alert_and_has_the_refined_onset() -> None:
    feed = Feed()
    answers = feed.send(-1.0, 0.0, 1.0, 2.5)
    alert, refinement = feed.events
    assert isinstance(alert, Alert)
    assert refinement == Refinement(
        feed="radar",
        track_id=7,
        onset_timestamp=alert.onset_timestamp,
        refined_onset_timestamp=ALARM - 0.025,
        refined_onset_deviation=1.0 / 3.5,
        hindsight_seconds=2.5,
        model_version=3,
    )
    assert list(json.loads(alert.to_json()))[:3] == ["event", "feed", "track_id"]
    assert (json.loads(alert.to_json())["event"], json.loads(refinement.to_json())["event"]) == ("alert", "refinement")
    np.testing.assert_array_equal(answers.refined_onset_timestamp, [-1.0, ALARM, ALARM - 0.01, ALARM - 0.025])
    np.testing.assert_array_equal(answers.refined_onset_deviation[:2], [-1.0, 1.0])
    assert feed.state.statistics.refinements == 1


@pytest.mark.parametrize("together", [False, True])
def test_refinements_are_given_at_or_after_2_5_10_and_20_s(together: bool) -> None:
    feed = Feed()
    times = [each / 4.0 for each in range(-8, 120) if each % 4 != 1]
    if together:
        feed.send(*times)
    else:
        for time in times:
            feed.send(time)
    assert feed.hindsights() == [2.0, 5.0, 10.0, 20.0]


def test_the_last_refinement_is_that_of_the_last_measurement_within_20_s() -> None:
    feed = Feed()
    for time in (0.0, 9.0, 11.0, 19.5, 20.5, 21.5):
        feed.send(time)
    assert feed.hindsights() == [9.0, 11.0, 19.5]


def test_a_gap_leaves_out_what_it_passes_and_gives_nothing_twice() -> None:
    feed = Feed()
    for time in (0.0, 1.5, 7.0, 30.0, 31.0):
        feed.send(time)
    assert feed.hindsights() == [7.0]
    other = Feed()
    for time in (0.0, 1.5, 30.0):
        other.send(time)
    assert other.hindsights() == [1.5]


def test_an_unknown_refinement_is_given_as_soon_as_it_is_known() -> None:
    feed = Feed()
    for time in (0.0, 2.0, 3.0, 4.0, 5.0, 20.0, 21.0):
        feed.send(time, unknown=(2.0, 3.0, 20.0))
    assert feed.hindsights() == [4.0, 5.0]


def test_a_track_whose_onset_is_never_refined_has_no_refinement_and_stops_waiting() -> None:
    feed = Feed()
    for time in range(25):
        feed.send(time, unknown=tuple(range(25)))
    assert feed.hindsights() == []
    slot = feed.state.tracks.slots_of(np.array([7]), 0.0)
    assert feed.state.tracks.refinements[slot].tolist() == [4]


@pytest.mark.parametrize("lost_at", range(0, 24, 3))
def test_replays_neither_repeat_nor_lose_refinements(lost_at: int) -> None:
    feed = Feed()
    for time in range(-2, 24):
        if time == lost_at:
            feed.replay()
        feed.send(float(time))
    feed.replay()
    assert feed.hindsights() == [2.0, 5.0, 10.0, 20.0]
    assert feed.state.statistics.alerts == 1


def test_a_replay_that_ends_before_the_last_measurement_repeats_nothing() -> None:
    feed = Feed()
    for time in (0.0, 10.5):
        feed.send(time)
    feed.replay()
    feed.send(30.0)
    assert feed.hindsights() == [10.5]


def test_a_replay_by_a_version_with_an_earlier_alarm_keeps_the_last_refinement() -> None:
    feed = Feed()
    for time in range(20):
        feed.send(float(time))
    late = tuple(ALARM + time for time in (16.0, 17.0, 18.0, 19.0))  # more than 20 s after the earlier alarm
    slots = feed.state.tracks.slots_of(np.array([7]), 0.0)
    replay = feed.state.replay_of(slots, "lost_server")
    feed.state.take_replay(replay, slice(0, len(replay.slots)), feed.outputs(replay.rows[:, 0], late))
    feed.send(20.0, unknown=(20.0,))
    assert feed.hindsights() == [2.0, 5.0, 10.0, 15.0]


def test_tracks_of_one_answer_are_refined_independently() -> None:
    feed = Feed()
    feed.send(0.0, 1.0, track=7)
    feed.send(-1.0, 0.0, track=8)
    stamps = ALARM + np.array([2.0, 1.0, 3.0, 2.0])
    slots = feed.state.tracks.slots_of(np.array([7, 8, 7, 8]), 0.0)
    rows = np.zeros((4, 6))
    rows[:, 0] = stamps
    feed.state._show(slots, rows, 0.0, feed.outputs(stamps), 0.0)
    assert (feed.hindsights(7), feed.hindsights(8)) == ([2.0], [2.0])


def test_a_track_number_that_begins_again_is_refined_again() -> None:
    feed = Feed()
    for time in range(25):
        feed.send(float(time))
    feed.state.begin_again(feed.state.tracks.slots_of(np.array([7]), 0.0))
    for time in range(6):
        feed.send(float(time))
    assert feed.hindsights() == [2.0, 5.0, 10.0, 20.0, 2.0, 5.0]


def test_measurements_that_were_not_accepted_give_no_refinement() -> None:
    feed = Feed()
    feed.send(0.0, 1.0)
    stamps = ALARM + np.array([6.0])
    rows = np.zeros((1, 6))
    rows[:, 0] = stamps
    slots = feed.state.tracks.slots_of(np.array([7]), 0.0)
    feed.state._show(slots, rows, 0.0, feed.outputs(stamps) | {"accepted": np.zeros(1, np.uint8)}, 0.0)
    assert feed.hindsights() == []
