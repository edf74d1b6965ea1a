"""A feed gives each track the answers that the track gets alone, whatever else its scans contain."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from reentry.decision import decide_tracks
from reentry.features.groups import ALL_GROUPS
from reentry.features.track import track_features
from reentry.refinement import LONGEST_HINDSIGHT, refined_onset
from reentry.schema import FEATURES, LARGEST_SCAN, SIMPLE_FEATURES
from reentry.triton import live_feed
from reentry.triton.feature_demand import mark_not_computed
from reentry.triton.live_feed import LiveFeed, LostFeedError, ScanAnswer
from tests.orbit import PRIOR, labelled_flights
from tests.unit.export.test_track_graph import ballistic, trapezoids

IDLE = 60.0
KNOWN, PEAK = FEATURES.index("orbit_known"), FEATURES.index("orbit_peak_pressure")


def network(features: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """A stand-in for the trained network: recurrent, with the same bits for any number of tracks."""
    fallen = 1.0 - features[:, FEATURES.index("altitude_fraction")]
    others = sum(np.clip(np.nan_to_num(column), -10.0, 10.0) for column in features.T)
    moved = (
        np.float32(0.9) * state[:, :1] + np.float32(0.1) * np.clip(fallen + np.float32(1e-4) * others, 0, 1)[:, None]
    )
    return np.clip(np.float32(2.0) * moved, 0, 1), np.broadcast_to(moved, (len(moved), 2)), 1


def alone(flight: np.ndarray, *, groups: frozenset[str] = ALL_GROUPS) -> dict[str, np.ndarray]:
    """Answers to a flight whose measurements are all valid, in order and different."""
    features = track_features(flight, groups=groups)[None]
    mark_not_computed(features, groups)
    state, probability = np.zeros((1, 2), np.float32), []
    for row in features[0]:
        scored, state, _ = network(row[None], state)
        probability.append(scored[0, 0])
    whole = np.array(probability)[None]
    phase, onset_step, onset_timestamp = decide_tracks(whole, flight[None, :, 0], np.array([len(flight)]))
    step = int(onset_step[0])
    rows = np.arange(len(flight))
    return {
        "reentry_probability": whole[0],
        "reentry_phase": phase[0],
        "onset": (rows == step).astype(np.uint8),
        "onset_timestamp": np.where((rows >= step) & (step >= 0), onset_timestamp[0], -1.0),
        "accepted": np.ones(len(flight), np.uint8),
        "started": (rows == 0).astype(np.uint8),
    }


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def feed(*, groups: frozenset[str] = ALL_GROUPS, clock: Clock | None = None) -> LiveFeed:
    return LiveFeed(network, groups=groups, idle=IDLE, clock=clock or Clock())


def flights(severity: int | None) -> list[np.ndarray]:
    """Flights without rows that repeat an earlier one, (T, M) each."""
    return [
        flight[np.sort(np.unique(flight, axis=0, return_index=True)[1])]
        for flight in (trapezoids() if severity is None else ballistic(severity))
    ]


def collected(answers: list[tuple[np.ndarray, ScanAnswer]], track: int) -> dict[str, np.ndarray]:
    """Answers to the rows of a track by field."""
    return {
        field.name: np.concatenate([getattr(answer, field.name)[ids == track] for ids, answer in answers])
        for field in fields(ScanAnswer)
    }


@pytest.mark.parametrize(
    ("severity", "groups"),
    [(0, ("robust",)), (1, ("orbit",)), (2, ("robust", "orbit")), (3, ("orbit",)), (None, ("orbit",)), (None, ())],
)
def test_every_track_gets_exactly_the_answers_that_it_gets_alone(severity: int | None, groups: tuple[str, ...]) -> None:
    groups = frozenset(groups)
    tracks, scans, rng = feed(groups=groups), [], np.random.default_rng(1)
    left = {number: list(flight) for number, flight in enumerate(flights(severity))}
    while left:
        # Some tracks are missing in a scan, some occur several times, and their order changes.
        rows = []
        for number in rng.permutation(list(left)):
            taken = int(rng.choice([0, 1, 1, 1, 3]))
            rows += [(number, row) for row in left[number][:taken]]
            left[number] = left[number][taken:]
            if not left[number]:
                del left[number]
        if rows:
            ids = np.array([number for number, _ in rows])
            scans.append((ids, tracks.scan(ids, np.array([row for _, row in rows]))))
    for number, flight in enumerate(flights(severity)):
        got, expected = collected(scans, number), alone(flight, groups=groups)
        for name, values in expected.items():
            np.testing.assert_array_equal(got[name], values, err_msg=name)


def test_late_repeated_and_invalid_measurements_change_nothing() -> None:
    flight, tracks, answers = flights(None)[0][:60], feed(), []
    for number, row in enumerate(flight):
        wrong = row.copy()
        wrong[number % 6] = np.nan
        late = flight[max(number - 3, 0)] - [0.01, 0.0, 0.0, 9.0, 0.0, 0.0]
        answer = tracks.scan(np.full(4, 5), np.stack([wrong, row, row, late]))
        answers.append(
            (np.array([5]), ScanAnswer(**{f.name: getattr(answer, f.name)[1:2] for f in fields(ScanAnswer)}))
        )
        assert answer.accepted.tolist() == [0, 1, 0, 0]
        assert np.isnan(answer.reentry_probability[0])
        assert answer.reentry_phase[0] == 255
        assert np.isnan(answer.onset_timestamp[0])
        for name in ("reentry_probability", "reentry_phase", "onset_timestamp"):
            assert len(set(getattr(answer, name)[1:].tolist())) == 1
        assert not answer.onset[2:].any()
    for name, values in alone(flight).items():
        np.testing.assert_array_equal(collected(answers, 5)[name], values, err_msg=name)


def test_a_track_that_first_appears_with_an_invalid_measurement_does_not_start() -> None:
    flight, tracks = flights(None)[0], feed()
    invalid = flight[0] * np.nan
    answer = tracks.scan(np.array([1, 2]), np.stack([invalid, flight[0]]))
    assert answer.started.tolist() == [0, 1]
    assert len(tracks) == 1
    assert tracks.scan(np.array([1]), flight[:1]).started.tolist() == [1]


def test_features_that_do_not_fit_in_float32_make_a_measurement_invalid_and_change_nothing() -> None:
    flight, tracks = flights(None)[0][:30], feed()
    before = tracks.scan(np.full(20, 1), flight[:20])
    huge = flight[20].copy()
    huge[4] = 1e300
    answer = tracks.scan(np.array([2, 1]), np.stack([huge, huge]))
    assert answer.accepted.tolist() == [0, 0]
    assert np.isnan(answer.reentry_probability).all()
    after = tracks.scan(np.array([1, 1, 2]), np.stack([flight[20], flight[21], flight[0]]))
    expected = alone(flight)["reentry_probability"]
    np.testing.assert_array_equal(before.reentry_probability, expected[:20])
    np.testing.assert_array_equal(after.reentry_probability[:2], expected[20:22])
    assert after.started.tolist() == [0, 0, 1]


def test_a_silent_track_is_dropped_and_begins_again() -> None:
    clock = Clock()
    flight, tracks = flights(None)[0], feed(clock=clock)
    tracks.scan(np.array([1, 2]), np.stack([flight[0], flight[0]]))
    clock.now = IDLE
    tracks.scan(np.array([2]), flight[1:2])
    assert tracks.drop_silent() == 0
    clock.now = IDLE + 1.0
    assert tracks.drop_silent() == 1
    assert len(tracks) == 1
    answer = tracks.scan(np.array([2, 1]), flight[[2, 2]])
    assert answer.started.tolist() == [0, 1]
    np.testing.assert_array_equal(answer.reentry_probability[0], alone(flight)["reentry_probability"][2])


def test_another_version_of_the_network_loses_the_feed() -> None:
    versions = iter([3, 4])
    tracks = LiveFeed(lambda x, state: (*network(x, state)[:2], next(versions)), groups=frozenset(), idle=IDLE)
    tracks.scan(np.array([1]), flights(None)[0][:1])
    with pytest.raises(LostFeedError, match="from version 3 to version 4"):
        tracks.scan(np.array([1]), flights(None)[0][1:2])


@pytest.mark.parametrize("rows", [0, LARGEST_SCAN + 1])
def test_a_scan_of_the_wrong_size_is_refused(rows: int) -> None:
    with pytest.raises(ValueError, match=r"Expected: 1 to 10,000"):
        feed().scan(np.zeros(rows, np.int64), np.zeros((rows, 6)))


def test_a_scan_whose_inputs_do_not_match_is_refused() -> None:
    with pytest.raises(ValueError, match=r"do not match"):
        feed().scan(np.zeros(2, np.int64), np.zeros((3, 6)))


def test_too_many_tracks_are_refused_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_feed, "LARGEST_FEED", 2)
    flight, tracks = flights(None)[0], feed()
    tracks.scan(np.array([1, 2]), flight[[0, 0]])
    with pytest.raises(ValueError, match=r"at most 2\. Got: 2 and 1 new ones"):
        tracks.scan(np.array([1, 3]), flight[[1, 0]])
    answer = tracks.scan(np.array([1, 2]), flight[[1, 1]])
    assert answer.accepted.tolist() == [1, 1]
    np.testing.assert_array_equal(answer.reentry_probability, [alone(flight)["reentry_probability"][1]] * 2)


def test_features_that_are_not_computed_are_nan() -> None:
    seen = []

    def spy(features: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        seen.append(features)
        return network(features, state)

    LiveFeed(spy, groups=frozenset(), idle=IDLE).scan(np.array([1]), flights(None)[0][:1])
    assert np.isnan(seen[0]).sum() == len(FEATURES) - len(SIMPLE_FEATURES)


def watching(features: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """A stand-in for a network that raises an alarm at a pressure."""
    alarm = (features[:, PEAK] > 3.5) & (features[:, KNOWN] > 0.0)
    return alarm[:, None].astype(np.float32), state, 1


def test_every_live_track_is_refined_as_the_whole_track_whatever_else_its_scans_contain() -> None:
    whole, refined = [], 0
    for flight, features, _ in labelled_flights()[:8]:
        alarm = int(watching(features, features)[0][:, 0].argmax())
        expected = np.full((2, len(flight)), -1.0)
        for step in range(alarm, len(flight)):
            found = refined_onset(features[: step + 1], flight[: step + 1, 0], alarm, PRIOR)
            if found is not None and flight[step, 0] - flight[alarm, 0] <= LONGEST_HINDSIGHT:
                expected[:, step] = found[:2]
                refined += 1
        whole.append(expected)
    assert refined > 100
    rng = np.random.default_rng(3)
    tracks = LiveFeed(watching, groups=ALL_GROUPS, idle=IDLE, clock=Clock(), prior_of={1: PRIOR}.get)
    left = {number: list(flight) for number, (flight, _, _) in enumerate(labelled_flights()[:8])}
    scans = []
    while left:
        rows = []
        for number in rng.permutation(list(left)):
            taken = int(rng.choice([0, 1, 1, 4]))
            rows += [(number, row) for row in left[number][:taken]]
            left[number] = left[number][taken:]
            if not left[number]:
                del left[number]
        if rows:
            ids = np.array([number for number, _ in rows])
            scans.append((ids, tracks.scan(ids, np.array([row for _, row in rows]))))
    for number, expected in enumerate(whole):
        got = collected(scans, number)
        used = got["accepted"] == 1
        np.testing.assert_array_equal(got["refined_onset_timestamp"][used], expected[0][used])
        np.testing.assert_array_equal(got["refined_onset_deviation"][used], expected[1][used])
        assert (got["refined_onset_timestamp"][~used] == -1.0).all()


def test_a_version_without_a_prior_refines_nothing() -> None:
    flight = labelled_flights()[0][0]
    tracks = LiveFeed(watching, groups=ALL_GROUPS, idle=IDLE, prior_of={}.get)
    answer = tracks.scan(np.full(len(flight), 1), flight)
    assert answer.onset.any()
    assert (answer.refined_onset_timestamp == -1.0).all()
    assert (answer.refined_onset_deviation == -1.0).all()


def test_refinements_continue_after_another_track_was_dropped() -> None:
    flight, features, _ = labelled_flights()[0]
    alarm = int(watching(features, features)[0][:, 0].argmax())
    clock = Clock()
    tracks = LiveFeed(watching, groups=ALL_GROUPS, idle=IDLE, clock=clock, prior_of={1: PRIOR}.get)
    tracks.scan(np.array([7]), flight[:1])
    tracks.scan(np.full(alarm, 8), flight[:alarm])
    clock.now = IDLE
    tracks.scan(np.array([8]), flight[alarm : alarm + 1])
    clock.now = IDLE + 1.0
    assert tracks.drop_silent() == 1
    answer = tracks.scan(np.array([9, 8]), flight[[0, alarm + 1]])
    found = refined_onset(features[: alarm + 2], flight[: alarm + 2, 0], alarm, PRIOR)
    assert found is not None
    assert answer.refined_onset_timestamp.tolist() == [-1.0, found.timestamp]


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.1, 1.5])
def test_a_value_that_is_no_probability_is_never_an_answer(value: float) -> None:
    def broken(features: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        probability, after, _ = network(features, state)
        probability[-1] = value
        return probability, after, 4

    one, other = (flight[0] for flight in trapezoids()[:2])
    with pytest.raises(LostFeedError) as failure:
        LiveFeed(broken, groups=ALL_GROUPS, idle=IDLE).scan(np.array([1, 2]), np.stack([one, other]))
    message = str(failure.value)
    assert f"version 4 of the network does not work: expected reentry_probability from 0 to 1, got {value}" in message
    assert ("likely cause: features that the network uses were not computed" in message) == (not np.isfinite(value))
