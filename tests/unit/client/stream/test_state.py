"""What a feed keeps between connections: alerts are given once, and rejected measurements are counted."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest

from client.stream.alert import Alert, Answers
from client.stream.sequence_stream import Outputs
from client.stream.state import FeedState


def rows(*timestamps: float) -> np.ndarray:
    return np.array([[timestamp, 1.0, 2.0, 3.0, 4.0, 5.0] for timestamp in timestamps])


def outputs(onset: list[int], *, accepted: list[int] | None = None, phase: list[int] | None = None) -> Outputs:
    """Answers of the server; the onset of each track was at 4.5 s."""
    count = len(onset)
    return {
        "reentry_probability": np.linspace(0.5, 0.75, count, dtype=np.float32),
        "reentry_phase": np.array(phase or [1] * count, np.uint8),
        "onset": np.array(onset, np.uint8),
        "onset_timestamp": np.full(count, 4.5),
        "accepted": np.array(accepted or [1] * count, np.uint8),
        "model_version": np.array([3], np.int64),
    }


class Feed:
    """A state whose alerts are collected."""

    def __init__(self) -> None:
        self.alerts: list[Alert] = []
        self.state = FeedState("radar", buffer=100, on_alert=self.alerts.append)

    def answer(self, track_ids: list[int], timestamps: list[float], answers: Outputs) -> Answers:
        async def answered() -> Answers:
            work = self.state.hand(np.array(track_ids), rows(*timestamps))
            self.state.take(work, slice(0, len(track_ids)), answers)
            return await work.future

        return asyncio.run(answered())

    def replay(self, track_ids: list[int], answers: Outputs) -> None:
        slots = self.state.tracks.slots_of(np.array(track_ids), 0.0)
        replay = self.state.replay_of(slots, "lost_server")
        self.state.take_replay(replay, slice(0, len(replay.slots)), answers)


def test_an_alert_names_the_track_the_onset_and_the_measurement_that_showed_it() -> None:
    feed = Feed()
    feed.answer([7, 8], [5.0, 5.5], outputs([0, 1]))
    (alert,) = feed.alerts
    assert (alert.feed, alert.track_id, alert.model_version) == ("radar", 8, 3)
    assert (alert.onset_timestamp, alert.detected_at, alert.probability) == (4.5, 5.5, 0.75)
    assert alert.latency_ms > 0.0
    assert alert.to_json().startswith('{"event": "alert", "feed": "radar", "track_id": 8, "onset_timestamp": 4.5, ')


def test_an_alert_that_arises_again_in_a_replay_is_not_given_again() -> None:
    feed = Feed()
    feed.answer([7, 8], [5.0, 5.0], outputs([1, 0]))
    feed.replay([7, 8], outputs([1, 0]))
    assert [alert.track_id for alert in feed.alerts] == [7]
    assert feed.state.statistics.alerts == 1
    assert feed.state.statistics.replays == {"lost_server": 2}
    assert feed.state.statistics.replayed_measurements == 2


def test_an_alert_that_arises_only_in_a_replay_is_given_with_the_whole_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = Feed()
    feed.answer([7, 8], [5.0, 6.0], outputs([0, 0]))
    later = time.monotonic() + 30.0
    monkeypatch.setattr("client.stream.state.time.monotonic", lambda: later)
    feed.replay([7, 8], outputs([0, 1]))
    (alert,) = feed.alerts
    assert (alert.track_id, alert.detected_at) == (8, 6.0)
    assert alert.latency_ms == pytest.approx(30_000.0, rel=0.1)


def test_a_track_number_that_begins_anew_may_alert_again() -> None:
    feed = Feed()
    feed.answer([7], [5.0], outputs([1]))
    feed.state.begin_again(feed.state.tracks.slots_of(np.array([7]), 0.0))
    feed.answer([7], [500.0], outputs([1]))
    assert len(feed.alerts) == 2


def test_rejected_measurements_are_counted_by_reason_and_not_replayed() -> None:
    feed = Feed()
    answers = feed.answer([7] * 4, [5.0, 6.0, 4.0, 7.0], outputs([0] * 4, accepted=[1, 0, 0, 1], phase=[1, 255, 1, 1]))
    assert answers.accepted.tolist() == [1, 0, 0, 1]
    assert feed.state.statistics.rejected == {"invalid": 1, "late": 1}
    replay = feed.state.replay_of(feed.state.tracks.slots_of(np.array([7]), 0.0), "expired")
    assert replay.rows[:, 0].tolist() == [5.0, 7.0]


def test_silent_tracks_are_dropped_unless_a_measurement_waits_for_its_answer() -> None:
    feed = Feed()
    feed.answer([7, 8], [5.0, 5.0], outputs([0, 0]))

    async def drop() -> int:
        work = feed.state.hand(np.array([8]), rows(6.0))
        dropped = feed.state.drop_silent(-1.0)
        feed.state.refuse(work, slice(0, 1), "no", "refused")
        assert (await work.future).refusals == {0: "no"}
        return len(dropped)

    assert asyncio.run(drop()) == 1
    assert feed.state.tracks.known(np.array([7, 8])).tolist() == [False, True]


def test_invalid_measurements_do_not_keep_a_track_alive() -> None:
    feed = Feed()
    feed.answer([7], [5.0], outputs([0]))
    feed.state.tracks.last_seen[:] -= 100.0
    feed.answer([7], [6.0], outputs([0], accepted=[0], phase=[255]))
    assert len(feed.state.drop_silent(60.0)) == 1


def test_a_replay_from_a_truncated_buffer_is_counted_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    feed = Feed()
    for step in range(120):
        feed.answer([7], [float(step)], outputs([0]))
    replay = feed.state.replay_of(feed.state.tracks.slots_of(np.array([7]), 0.0), "lost_server")
    assert replay.rows[-1, 0] == 119.0
    assert feed.state.statistics.truncated_replays == 1
    assert "1 tracks are replayed without their first measurements" in caplog.text


def test_answers_to_some_measurements_are_spread_over_all() -> None:
    sent = np.array([True, False, True])
    answers = Answers.empty(2)
    answers.probability[:], answers.refusals = [0.25, 0.75], {1: "invalid"}
    answers.refined_onset_timestamp[:], answers.refined_onset_deviation[:] = [4.0, 5.0], [0.5, 0.25]
    spread = answers.spread(sent, "no room")
    np.testing.assert_array_equal(spread.refined_onset_timestamp, [4.0, -1.0, 5.0])
    np.testing.assert_array_equal(spread.refined_onset_deviation, [0.5, -1.0, 0.25])
    np.testing.assert_array_equal(spread.probability, np.array([0.25, np.nan, 0.75], np.float32))
    assert spread.refusals == {1: "no room", 2: "invalid"}


def test_the_parts_of_a_large_call_are_joined() -> None:
    first, second = Answers.empty(2), Answers.empty(1)
    second.probability[0], second.refusals, second.model_version = 0.5, {0: "no"}, 4
    second.refined_onset_timestamp[0], second.refined_onset_deviation[0] = 4.0, 0.5
    joined = Answers.joined([first, second])
    assert joined.refined_onset_timestamp.tolist() == [-1.0, -1.0, 4.0]
    assert joined.refined_onset_deviation.tolist() == [-1.0, -1.0, 0.5]
    assert joined.probability.tolist()[2] == 0.5
    assert (joined.refusals, joined.model_version) == ({2: "no"}, 4)
