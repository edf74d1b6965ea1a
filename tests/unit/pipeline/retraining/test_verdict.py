"""Verdicts for given differences, and how often the gate errs, by simulation."""

from __future__ import annotations

import datetime as dt
from collections import Counter

import numpy as np
import pytest

from pipeline.retraining.gate import ONSET_RMSE, TABLE, WINDOW, WRONG_ONSETS, comparisons, slices_of, window_of
from pipeline.retraining.paired import Difference, Values
from pipeline.retraining.reason import Reason
from pipeline.retraining.scores import PairedScores
from pipeline.retraining.verdict import ALPHA, GateComparison, GateVerdict, judge
from pipeline.settings import PipelineSettings


def comparison(
    low: float, high: float, p_worse: float = 0.5, p_better: float = 0.5, **changes: object
) -> GateComparison:
    middle = (low + high) / 2
    difference = Difference(
        tracks=100, challenger=1.0 + middle, champion=1.0, low=low, high=high, p_worse=p_worse, p_better=p_better
    )
    values = {"data": TABLE, "group": "all", "measure": ONSET_RMSE, "margin": 0.1, "difference": difference}
    return GateComparison(**values | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("main", "guards", "verdict"),
    [
        ([comparison(-0.5, -0.2, p_better=0.001)], [], GateVerdict.BETTER),
        ([comparison(-0.05, 0.05)], [], GateVerdict.SAME),
        ([comparison(0.02, 0.08, p_worse=0.001)], [], GateVerdict.SAME),  # certainly worse, by less than the margin
        ([comparison(-0.5, 0.3)], [], GateVerdict.WITHIN_NOISE),
        ([comparison(0.2, 0.6, p_worse=0.001)], [], GateVerdict.WORSE),
        ([comparison(-0.5, -0.2, p_better=0.001), comparison(-0.2, 0.4, data=WINDOW)], [], GateVerdict.WITHIN_NOISE),
        (
            [comparison(-0.5, -0.2, p_better=0.03), comparison(-0.2, 0.05, data=WINDOW)],
            [],
            GateVerdict.SAME,
        ),  # Holm: 0.06
        ([comparison(-0.5, -0.2, p_better=0.001)], [comparison(0.2, 0.9, p_worse=0.001, group="sensors 1")], "worse"),
        ([comparison(-0.05, 0.05)], [comparison(0.2, 0.9, p_worse=0.03, group="sensors 1")], GateVerdict.SAME),
        ([comparison(-0.05, 0.05)], [comparison(-0.9, 0.9, p_worse=0.5, group="sensors 1")], GateVerdict.SAME),
    ],
)
def test_the_verdict_follows_the_rules(
    main: list[GateComparison], guards: list[GateComparison], verdict: GateVerdict
) -> None:
    found, worse = judge(main, guards)
    assert found == verdict
    assert bool(worse) == (verdict == GateVerdict.WORSE)


def test_only_drift_allows_a_model_that_is_not_better_and_nothing_allows_a_worse_one() -> None:
    allowed = {(verdict, reason) for verdict in GateVerdict for reason in (None, *Reason) if verdict.allows(reason)}
    better = {(GateVerdict.BETTER, reason) for reason in (None, *Reason)}
    assert allowed == better | {(GateVerdict.SAME, Reason.DRIFT), (GateVerdict.WITHIN_NOISE, Reason.DRIFT)}


def scores(
    random: np.random.Generator, tracks: int, *, misses: float = 0.0, worse_by: float = 1.0, on_sensors: str = ""
) -> PairedScores:
    """Errors of two equal models that share a part of each error, times a factor for the challenger."""
    errors = random.standard_t(3, (tracks, 1)) + random.normal(0, 0.5, (tracks, 2))
    missed = random.random((tracks, 2)) < misses
    errors[missed] = 60.0
    sensors = random.choice(["1", "2", "3"], tracks, p=[0.5, 0.3, 0.2])
    errors[sensors == on_sensors if on_sensors else slice(None), 0] *= worse_by
    return PairedScores(
        start=np.zeros(tracks),
        errors=errors,
        wrong=missed.astype(float),
        groups={"severity": random.choice(["0", "1", "2"], tracks), "sensors": sensors, "range": np.full(tracks, "")},
    )


def verdicts(tracks: int, count: int, **changes: object) -> Counter[GateVerdict]:
    random, settings = np.random.default_rng(7), PipelineSettings()
    found: Counter[GateVerdict] = Counter()
    for _ in range(count):
        table = scores(random, tracks, **changes)  # type: ignore[arg-type]
        window = table.select(random.random(tracks) < 0.4)
        found[judge(*comparisons({TABLE: table, WINDOW: window}, settings, resamples=500))[0]] += 1
    return found


@pytest.mark.parametrize(("tracks", "cases"), [(60, 200), (200, 100)])
def test_two_equal_models_are_worse_or_better_in_about_5_of_100_cases_at_most(tracks: int, cases: int) -> None:
    found = verdicts(tracks, cases, misses=0.02)
    limit = cases * ALPHA + 3 * np.sqrt(cases * ALPHA * (1 - ALPHA))
    assert found[GateVerdict.WORSE] <= limit
    assert found[GateVerdict.BETTER] <= limit


def test_a_planted_regression_is_found_and_the_reverse_is_an_improvement() -> None:
    assert verdicts(300, 40, worse_by=1.5)[GateVerdict.WORSE] >= 38
    assert verdicts(300, 40, worse_by=1 / 1.5)[GateVerdict.BETTER] >= 36


def test_a_regression_in_a_slice_alone_is_found() -> None:
    assert verdicts(300, 40, worse_by=2.5, on_sensors="3")[GateVerdict.WORSE] >= 36


def test_missed_onsets_refuse_a_challenger_whose_rmse_hides_them() -> None:
    tracks, settings = 200, PipelineSettings()
    errors, wrong = np.full((tracks, 2), 30.0), np.zeros((tracks, 2))
    wrong[:10, 0] = 1.0
    table = PairedScores(start=np.zeros(tracks), errors=errors, wrong=wrong, groups={})
    verdict, worse = judge(*comparisons({TABLE: table}, settings, resamples=2000))
    assert verdict is GateVerdict.WORSE
    assert [each.measure for each in worse] == [WRONG_ONSETS]


def test_slices_are_known_groups_with_enough_tracks_of_properties_that_vary() -> None:
    groups = {
        "severity": np.array(["1"] * 30 + ["2"] * 25 + [""] * 45),
        "sensors": np.array(["1"] * 90 + ["2"] * 10),
        "range": np.full(100, "below 1,000 km"),
    }
    table = PairedScores(start=np.zeros(100), errors=np.zeros((100, 2)), wrong=np.zeros((100, 2)), groups=groups)
    found = {name: len(chosen) for name, chosen in slices_of(table)}
    assert found == {"severity 1": 30, "severity 2": 25, "sensors 1": 90}


def test_the_margin_is_the_larger_of_a_time_and_a_share_of_the_champions_error() -> None:
    settings = PipelineSettings(gate_margin=0.2, gate_margin_share=0.1)
    for error, margin in ((1.0, 0.2), (10.0, 1.0)):
        table = PairedScores(start=np.zeros(30), errors=np.full((30, 2), error), wrong=np.zeros((30, 2)), groups={})
        main, _ = comparisons({TABLE: table}, settings, resamples=10)
        assert main[0].margin == pytest.approx(margin)


NOW = dt.datetime(2026, 12, 1, tzinfo=dt.UTC)


def days_before(*days: float) -> Values:
    """Return the start of a track for each number of days before the present."""
    return NOW.timestamp() - 86_400.0 * np.array(days)


def test_the_window_has_the_tracks_of_the_days_before_the_newest_one() -> None:
    within, note = window_of(days_before(*[40.0] * 30, *[33.5] * 20, 27.0), days=7.0, now=NOW)
    assert within.tolist() == [False] * 30 + [True] * 21
    assert note == ""


def test_a_track_with_a_wrong_clock_neither_moves_the_window_nor_is_in_it() -> None:
    within, note = window_of(days_before(*[30.0] * 30, *[3.0] * 20, -0.5, -27_000.0), days=7.0, now=NOW)
    assert within.tolist() == [False] * 30 + [True] * 21 + [False]
    assert note == "1 of 52 tracks are dated after the present and are not in the window"


@pytest.mark.parametrize(("days", "tracks"), [((30.0, *[40.0] * 50), 1), ((-500.0,) * 50, 0)])
def test_a_window_with_too_few_tracks_is_noted(days: tuple[float, ...], tracks: int) -> None:
    within, note = window_of(days_before(*days), days=7.0, now=NOW)
    assert within.sum() == tracks
    assert f"the window of 7 days was not compared: it has {tracks} of 20 tracks" in note
