"""The four checks of a canary, each of which turns figures into a verdict.

A check fails only if the canary is worse with confidence, and passes only if it is good enough with confidence.
Otherwise it is inconclusive, and more traffic decides. So a handful of requests gives no verdict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from pipeline.canary.config import CanaryLimits
from pipeline.canary.statistics import Estimate, difference, quantile_estimate, share

ERRORS: Final = "error ratio"
DURATION: Final = "p99"
DRIFT: Final = "PSI"
AGREEMENT: Final = "agreement"

Buckets = Sequence[tuple[float, float]]
"""Upper bound and cumulative count of each bucket of a histogram, ascending."""


class CanaryVerdict(StrEnum):
    """Verdict on a canary."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Result of one check."""

    name: str
    verdict: CanaryVerdict
    reason: str
    figures: Mapping[str, float] = field(default_factory=dict)
    """Measured values by name; a duration beyond the last bucket is infinite."""
    limits: Mapping[str, float] = field(default_factory=dict)
    """Values that the figures were compared with, by name."""
    queries: tuple[str, ...] = ()
    """Queries that gave the figures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """Requests of one release."""

    received: float
    failed: float
    """Requests that were not answered, for any reason."""
    refused: float
    """Failed requests that were refused for their content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Tracks of one release."""

    tracks: float
    onsets: float
    """Tracks with an onset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Tracks that both releases received."""

    tracks: int
    """Tracks that at least one of them scored."""
    agreeing: int
    """Tracks for which both gave the same decision."""


def unknown(name: str, reason: str) -> Check:
    """Return the check of figures that are unknown."""
    return Check(name=name, verdict=CanaryVerdict.INCONCLUSIVE, reason=reason)


def judge_errors(canary: Requests, stable: Requests, limits: CanaryLimits) -> Check:
    """Compare the shares of failed requests, and limit the share of lost ones.

    Both releases get the same mixture of requests. Refused requests therefore count in the comparison, where they show
    a canary that refuses what the stable release scores, but not against the absolute limit.
    """
    figures = {"canary_requests": canary.received, "stable_requests": stable.received}
    checked = {"error_margin": limits.error_margin, "max_error_ratio": limits.max_error_ratio}
    few = _too_few(ERRORS, figures, limits.min_requests, checked)
    if few is not None:
        return few
    ratios = [share(each.failed, each.received, confidence=limits.confidence) for each in (canary, stable)]
    excess = difference(*ratios)
    lost = share(canary.failed - canary.refused, canary.received, confidence=limits.confidence)
    figures |= {"canary_error_ratio": ratios[0].value, "stable_error_ratio": ratios[1].value}
    figures |= _bounds("excess", excess) | _bounds("canary_lost_ratio", lost)
    return _check(
        ERRORS,
        is_worse=excess.low > limits.error_margin or lost.low > limits.max_error_ratio,
        is_good=excess.high <= limits.error_margin and lost.high <= limits.max_error_ratio,
        reason=f"{ratios[0].value:.2%} of the canary's requests failed and {ratios[1].value:.2%} of the stable "
        f"release's, an excess of {excess.low:.2%} to {excess.high:.2%}",
        figures=figures,
        limits=checked,
    )


def judge_duration(canary: Buckets, stable: Buckets, limits: CanaryLimits) -> Check:
    """Compare the 99th percentiles of the inference time.

    A histogram does not say where in its bucket a percentile lies. The check therefore passes only if the upper edge of
    the canary's bucket is small enough compared with the lower edge of the stable release's, and fails only if the
    lower edge of the canary's is too large compared with the upper edge of the stable release's.
    """
    figures = {"canary_requests": canary[-1][1], "stable_requests": stable[-1][1]}
    checked = {"p99_ratio": limits.p99_ratio, "p99_floor": limits.p99_floor, "max_p99": limits.max_p99}
    few = _too_few(DURATION, figures, limits.min_requests, checked)
    if few is not None:
        return few
    p99 = quantile_estimate(canary, 0.99, confidence=limits.confidence)
    reference = quantile_estimate(stable, 0.99, confidence=0.5)
    least, most = (max(limits.p99_ratio * each, limits.p99_floor) for each in (reference.low, reference.high))
    figures |= _bounds("canary_p99", p99) | _bounds("stable_p99", reference)
    return _check(
        DURATION,
        is_worse=p99.low > most,
        is_good=p99.high <= min(least, limits.max_p99),
        reason=f"the p99 of the canary is {p99.low:.3g} to {p99.high:.3g} s, that of the stable release "
        f"{reference.low:.3g} to {reference.high:.3g} s",
        figures=figures,
        limits=checked,
    )


def judge_drift(canary: Mapping[str, float], stable: Mapping[str, float], tracks: float, limits: CanaryLimits) -> Check:
    """Limit the population stability index of each feature that the canary's network uses.

    The index compares recent tracks with the training data of the release that scored them. A canary that was trained
    on other tracks than it gets fails, also if the stable release drifts too. The figures show both.

    Args:
        canary: index of each feature of the canary.
        stable: index of each feature of the stable release.
        tracks: number of tracks that the canary has scored.
        limits: the limits.
    """
    figures = {"canary_tracks": tracks}
    figures |= {f"canary_psi.{name}": value for name, value in sorted(canary.items()) if math.isfinite(value)}
    figures |= {f"stable_psi.{name}": value for name, value in sorted(stable.items()) if math.isfinite(value)}
    checked = {"max_psi": limits.max_psi}
    few = _too_few(DRIFT, {"canary_tracks": tracks}, limits.min_tracks, checked, figures)
    if few is not None:
        return few
    if not canary or not all(map(math.isfinite, canary.values())):
        reason = "the canary measures no drift: its version may have no reference.json, or no used feature"
        return Check(name=DRIFT, verdict=CanaryVerdict.INCONCLUSIVE, reason=reason, figures=figures, limits=checked)
    worst = max(canary, key=lambda name: canary[name])
    return _check(
        DRIFT,
        is_worse=canary[worst] > limits.max_psi,
        is_good=canary[worst] <= limits.max_psi,
        reason=f"the largest index of the canary is {canary[worst]:.3f}, of {worst}",
        figures=figures,
        limits=checked,
    )


def judge_alarms(canary: Scored, stable: Scored, limits: CanaryLimits) -> Check:
    """Compare the shares of tracks with an onset; the agreement is one minus their difference.

    The edge distributes requests at random, so both releases get tracks of the same kind, but not the same tracks. Two
    releases with equal shares may still decide differently about each track: `judge_pairs` shows that.
    """
    figures = {"canary_tracks": canary.tracks, "stable_tracks": stable.tracks}
    checked = {"min_agreement": limits.min_agreement}
    few = _too_few(AGREEMENT, figures, limits.min_tracks, checked)
    if few is not None:
        return few
    shares = [share(each.onsets, each.tracks, confidence=limits.confidence) for each in (canary, stable)]
    distance = difference(*shares)
    largest = max(abs(distance.low), abs(distance.high))
    smallest = 0.0 if distance.low <= 0.0 <= distance.high else min(abs(distance.low), abs(distance.high))
    agreement = Estimate(value=1.0 - abs(distance.value), low=1.0 - largest, high=1.0 - smallest)
    figures |= {"canary_alarm_share": shares[0].value, "stable_alarm_share": shares[1].value}
    return _judge_agreement(
        agreement,
        reason=f"{shares[0].value:.1%} of the canary's tracks have an onset and {shares[1].value:.1%} of the stable "
        "release's",
        figures=figures,
        limits=limits,
    )


def judge_pairs(pairs: Pairs, limits: CanaryLimits) -> Check:
    """Limit the share of the same tracks for which both releases gave the same decision."""
    figures: dict[str, float] = {"tracks": pairs.tracks, "agreeing_tracks": pairs.agreeing}
    if not pairs.tracks:
        return unknown(AGREEMENT, "neither release scored one of the tracks")
    return _judge_agreement(
        share(pairs.agreeing, pairs.tracks, confidence=limits.confidence),
        reason=f"both releases gave the same decision for {pairs.agreeing:,} of {pairs.tracks:,} tracks",
        figures=figures,
        limits=limits,
    )


def _judge_agreement(agreement: Estimate, *, reason: str, figures: Mapping[str, float], limits: CanaryLimits) -> Check:
    return _check(
        AGREEMENT,
        is_worse=agreement.high < limits.min_agreement,
        is_good=agreement.low >= limits.min_agreement,
        reason=f"{reason}, an agreement of {agreement.low:.1%} to {agreement.high:.1%}",
        figures=dict(figures) | _bounds("agreement", agreement),
        limits={"min_agreement": limits.min_agreement},
    )


def _check(
    name: str,
    *,
    is_worse: bool,
    is_good: bool,
    reason: str,
    figures: Mapping[str, float],
    limits: Mapping[str, float],
) -> Check:
    verdict = CanaryVerdict.FAIL if is_worse else CanaryVerdict.PASS if is_good else CanaryVerdict.INCONCLUSIVE
    return Check(name=name, verdict=verdict, reason=reason, figures=figures, limits=limits)


def _too_few(
    name: str,
    counts: Mapping[str, float],
    least: int,
    limits: Mapping[str, float],
    figures: Mapping[str, float] | None = None,
) -> Check | None:
    """Return an inconclusive check if one of the counts is too small."""
    for count, got in counts.items():
        if not got >= least:
            release, _, what = count.partition("_")
            reason = f"the {release} release has {got:,.0f} {what}, and a verdict needs {least:,}"
            return Check(
                name=name, verdict=CanaryVerdict.INCONCLUSIVE, reason=reason, figures=figures or counts, limits=limits
            )
    return None


def _bounds(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
