"""Verdicts of the four checks."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.canary.checks import (
    CanaryVerdict,
    Check,
    Pairs,
    Requests,
    Scored,
    judge_alarms,
    judge_drift,
    judge_duration,
    judge_errors,
    judge_pairs,
)
from pipeline.canary.config import CanaryLimits
from reentry.triton.telemetry import LATENCY_BUCKETS

LIMITS = CanaryLimits()
ORDER = {CanaryVerdict.FAIL: 0, CanaryVerdict.INCONCLUSIVE: 1, CanaryVerdict.PASS: 2}

counts = st.integers(0, 200_000)
shares = st.floats(0.0, 1.0)


def requests(received: float, failed: float = 0.0, refused: float = 0.0) -> Requests:
    return Requests(received=received, failed=failed, refused=refused)


def durations(total: float, *slow: tuple[float, float], fast: float = 0.002) -> list[tuple[float, float]]:
    """Return the histogram of `total` requests: those of (seconds, number), and the others in `fast` seconds."""
    values = [(fast, total - sum(number for _, number in slow)), *slow]
    bounds = (*LATENCY_BUCKETS, math.inf)
    return [(bound, sum(number for seconds, number in values if seconds <= bound)) for bound in bounds]


@pytest.mark.parametrize(
    ("canary", "stable", "verdict"),
    [
        (requests(1_000), requests(10_000), CanaryVerdict.PASS),
        (requests(1_000, 2), requests(10_000, 20), CanaryVerdict.PASS),
        (requests(1_000, 60), requests(10_000), CanaryVerdict.FAIL),
        (requests(1_000, 500), requests(10_000, 500), CanaryVerdict.FAIL),
        (requests(120, 2), requests(10_000), CanaryVerdict.INCONCLUSIVE),  # 1.7 %, and too few requests to know
        (requests(200), requests(10_000), CanaryVerdict.INCONCLUSIVE),  # up to 1.3 % may fail
        (requests(99), requests(10_000), CanaryVerdict.INCONCLUSIVE),
        (requests(0), requests(10_000), CanaryVerdict.INCONCLUSIVE),
        (requests(1_000), requests(0), CanaryVerdict.INCONCLUSIVE),
        (requests(math.nan), requests(1_000), CanaryVerdict.INCONCLUSIVE),
    ],
)
def test_errors_of_a_canary_are_compared_with_those_of_the_stable_release(
    canary: Requests, stable: Requests, verdict: CanaryVerdict
) -> None:
    assert judge_errors(canary, stable, LIMITS).verdict is verdict


def test_a_canary_that_refuses_what_the_stable_release_scores_fails() -> None:
    refusing = requests(1_000, 60, refused=60)
    assert judge_errors(refusing, requests(10_000), LIMITS).verdict is CanaryVerdict.FAIL
    assert judge_errors(refusing, requests(10_000, 600, refused=600), LIMITS).verdict is CanaryVerdict.INCONCLUSIVE
    many = requests(100_000, 6_000, refused=6_000)  # bad clients, and no release is at fault
    assert judge_errors(many, requests(100_000, 6_000, refused=6_000), LIMITS).verdict is CanaryVerdict.PASS


def test_a_canary_does_not_pass_while_both_releases_lose_requests() -> None:
    assert judge_errors(requests(100_000, 8_000), requests(100_000, 8_000), LIMITS).verdict is CanaryVerdict.FAIL
    close = judge_errors(requests(10_000, 490), requests(10_000, 490), LIMITS)
    assert close.verdict is CanaryVerdict.INCONCLUSIVE
    assert close.figures["canary_lost_ratio_high"] > LIMITS.max_error_ratio


@given(counts, counts, shares, shares)
def test_more_failures_of_the_canary_never_improve_the_verdict(
    canary: int, stable: int, one: float, other: float
) -> None:
    fewer, more = sorted((one, other))
    reference = requests(stable, 0.002 * stable)
    verdicts = [judge_errors(requests(canary, canary * each), reference, LIMITS).verdict for each in (fewer, more)]
    assert ORDER[verdicts[1]] <= ORDER[verdicts[0]]


@given(counts, counts, st.floats(0.0, 0.04))
def test_a_canary_with_the_error_ratio_of_the_stable_release_never_fails(
    canary: int, stable: int, ratio: float
) -> None:
    found = judge_errors(requests(canary, ratio * canary), requests(stable, ratio * stable), LIMITS)
    assert found.verdict is not CanaryVerdict.FAIL


@given(st.integers(0, 99), counts)
def test_too_few_requests_never_give_a_verdict(few: int, many: int) -> None:
    for canary, stable in ((few, many), (many, few)):
        assert judge_errors(requests(canary, canary), requests(stable), LIMITS).verdict is CanaryVerdict.INCONCLUSIVE
        times = durations(canary), durations(stable)
        assert judge_duration(*times, LIMITS).verdict is CanaryVerdict.INCONCLUSIVE
        scored = Scored(tracks=canary, onsets=canary), Scored(tracks=stable, onsets=0)
        assert judge_alarms(*scored, LIMITS).verdict is CanaryVerdict.INCONCLUSIVE
    assert judge_drift({"altitude": 0.0}, {}, few, LIMITS).verdict is CanaryVerdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("canary", "stable", "verdict"),
    [
        (durations(1_000), durations(10_000), CanaryVerdict.PASS),
        (durations(200), durations(10_000), CanaryVerdict.INCONCLUSIVE),  # even the slowest of them bounds no p99
        (durations(1_000, (0.02, 100.0)), durations(10_000), CanaryVerdict.PASS),  # slower, and below the floor
        (durations(1_000, (0.2, 100.0)), durations(10_000), CanaryVerdict.FAIL),
        (durations(1_000, (0.2, 100.0)), durations(10_000, (0.2, 1_000.0)), CanaryVerdict.PASS),
        (
            durations(1_000, (0.4, 100.0)),
            durations(10_000, (0.4, 1_000.0)),
            CanaryVerdict.INCONCLUSIVE,
        ),  # both too slow
        (durations(1_000, (0.2, 10.0)), durations(10_000), CanaryVerdict.INCONCLUSIVE),  # exactly one in a hundred
        (durations(1_000, (60.0, 100.0)), durations(10_000), CanaryVerdict.FAIL),  # beyond the last bucket
        (durations(1_000, (60.0, 100.0)), durations(10_000, (60.0, 1_000.0)), CanaryVerdict.INCONCLUSIVE),
    ],
)
def test_the_p99_of_a_canary_is_compared_with_that_of_the_stable_release(
    canary: list[tuple[float, float]], stable: list[tuple[float, float]], verdict: CanaryVerdict
) -> None:
    assert judge_duration(canary, stable, LIMITS).verdict is verdict


SECONDS = np.geomspace(0.002, 0.25, 60)[:-1]
"""Durations of the slowest 2 % of the requests, so that each of them is a p99."""


def judged(canary: float, stable: float, *, total: float = 100_000.0) -> CanaryVerdict:
    """Compare two releases whose p99 are known."""
    slow = 0.02 * total
    return judge_duration(durations(total, (canary, slow)), durations(total, (stable, slow)), LIMITS).verdict


def test_the_buckets_never_hide_that_a_canary_is_slower_than_the_limit_allows() -> None:
    for stable in SECONDS:
        for ratio in (1.51, 1.7, 2.0, 2.4):
            if stable * ratio > LIMITS.p99_floor:
                assert judged(stable * ratio, stable) is not CanaryVerdict.PASS
        assert judged(stable * 1.49, stable) is not CanaryVerdict.FAIL
        if stable >= 0.035:
            assert judged(stable * 2.3, stable) is CanaryVerdict.FAIL


def test_a_canary_that_is_as_fast_as_the_stable_release_passes_in_its_bucket_and_in_the_next() -> None:
    for bound, above in pairwise(LATENCY_BUCKETS):
        if above <= LIMITS.max_p99:
            assert judged(bound, bound) is CanaryVerdict.PASS
            assert judged(above, bound) is CanaryVerdict.PASS, bound


@given(st.integers(100, 100_000), shares, shares)
def test_more_slow_requests_never_improve_the_verdict(total: int, one: float, other: float) -> None:
    fewer, more = sorted((one, other))
    verdicts = [
        judge_duration(durations(total, (0.4, each * total)), durations(10_000), LIMITS).verdict
        for each in (fewer, more)
    ]
    assert ORDER[verdicts[1]] <= ORDER[verdicts[0]]


@pytest.mark.parametrize(
    ("canary", "verdict"),
    [
        ({"altitude": 0.1, "time_step": 0.25}, CanaryVerdict.PASS),
        ({"altitude": 0.1, "time_step": 0.26}, CanaryVerdict.FAIL),
        ({}, CanaryVerdict.INCONCLUSIVE),
        ({"altitude": math.nan}, CanaryVerdict.INCONCLUSIVE),
        ({"altitude": math.nan, "time_step": 9.0}, CanaryVerdict.INCONCLUSIVE),
        ({"altitude": math.inf}, CanaryVerdict.INCONCLUSIVE),
    ],
)
def test_a_canary_drifts_if_one_used_feature_does(canary: dict[str, float], verdict: CanaryVerdict) -> None:
    found = judge_drift(canary, {"altitude": 0.3}, 1_000.0, LIMITS)
    assert found.verdict is verdict
    assert found.figures["stable_psi.altitude"] == 0.3


@pytest.mark.parametrize(
    ("canary", "stable", "verdict"),
    [
        (Scored(tracks=4_000, onsets=3_000), Scored(tracks=40_000, onsets=30_000), CanaryVerdict.PASS),
        (Scored(tracks=4_000, onsets=0), Scored(tracks=40_000, onsets=30_000), CanaryVerdict.FAIL),
        (Scored(tracks=4_000, onsets=4_000), Scored(tracks=40_000, onsets=30_000), CanaryVerdict.FAIL),
        (Scored(tracks=250, onsets=180), Scored(tracks=40_000, onsets=30_000), CanaryVerdict.INCONCLUSIVE),
        (Scored(tracks=400, onsets=400), Scored(tracks=400, onsets=400), CanaryVerdict.PASS),
    ],
)
def test_releases_agree_if_their_tracks_have_onsets_equally_often(
    canary: Scored, stable: Scored, verdict: CanaryVerdict
) -> None:
    assert judge_alarms(canary, stable, LIMITS).verdict is verdict


@given(counts, counts, shares)
def test_releases_with_the_same_share_of_onsets_never_disagree(canary: int, stable: int, value: float) -> None:
    scored = (Scored(tracks=each, onsets=value * each) for each in (canary, stable))
    found = judge_alarms(*scored, LIMITS)
    assert found.verdict is not CanaryVerdict.FAIL
    if "agreement" in found.figures:
        assert 0.0 <= found.figures["agreement_low"] <= found.figures["agreement"] <= found.figures["agreement_high"]


@pytest.mark.parametrize(
    ("agreeing", "tracks", "verdict"),
    [
        (200, 200, CanaryVerdict.PASS),
        (194, 200, CanaryVerdict.INCONCLUSIVE),
        (180, 200, CanaryVerdict.FAIL),
        (20, 20, CanaryVerdict.INCONCLUSIVE),
        (0, 0, CanaryVerdict.INCONCLUSIVE),
    ],
)
def test_releases_agree_if_they_decide_alike_about_the_same_tracks(
    agreeing: int, tracks: int, verdict: CanaryVerdict
) -> None:
    assert judge_pairs(Pairs(tracks=tracks, agreeing=agreeing), LIMITS).verdict is verdict


@given(counts, counts, shares, shares)
def test_a_check_names_every_figure_and_its_limits(canary: int, stable: int, one: float, other: float) -> None:
    found: list[Check] = [
        judge_errors(requests(canary, one * canary), requests(stable, other * stable), LIMITS),
        judge_duration(durations(canary, (0.4, one * canary)), durations(stable), LIMITS),
        judge_alarms(Scored(tracks=canary, onsets=one * canary), Scored(tracks=stable, onsets=other * stable), LIMITS),
    ]
    for check in found:
        assert check.limits
        assert check.reason
        assert not any(map(math.isnan, check.figures.values()))


def test_a_canary_like_the_stable_release_rarely_fails_although_it_is_judged_again_and_again() -> None:
    """Each release of the simulation is judged in six windows at each of four steps."""
    generator = np.random.default_rng(3)
    failed = 0
    for _ in range(400):
        alarms, errors = generator.binomial(300, 0.75, 24), generator.binomial(300, 0.002, 24)
        stable = Scored(tracks=4_000, onsets=float(generator.binomial(4_000, 0.75)))
        verdicts = {judge_alarms(Scored(tracks=300, onsets=float(each)), stable, LIMITS).verdict for each in alarms}
        verdicts |= {judge_errors(requests(300, float(each)), requests(4_000, 8.0), LIMITS).verdict for each in errors}
        failed += CanaryVerdict.FAIL in verdicts
    assert failed <= 8  # 2 %
