"""Report of an experiment: what the inference log and the true onsets say about its two variants.

A track counts once, with its latest answer, because answers for the same track are not independent. In a shadow
experiment the latest answers of both versions to the same request form a pair. Answers of the fallback rule count for
neither variant.

The intervals are those of `gateway.comparison.confidence`. The error probability is divided by the number of metrics,
so that any of the verdicts of a report is a false alarm with a probability of at most `ALPHA`, however often the report
is read.

Shapes: N tracks, or pairs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from sqlalchemy import and_, select

from gateway.comparison.assignment import Mode, Variant
from gateway.comparison.confidence import (
    ALPHA,
    FEWEST,
    Interval,
    Moments,
    Verdict,
    difference_interval,
    mean_interval,
)
from gateway.comparison.experiments import Plan
from gateway.database.engine import Database
from gateway.database.tables import LoggedTrack, Outcome

LARGEST_ONSET_ERROR: Final = 60.0
"""Onset error of a missed reentry and of a false alarm, and the largest one of all others, s."""

AGREEMENT_SECONDS: Final = 1.0
"""Largest difference of two onsets that agree, s."""

LARGEST_MISSING_SHARE: Final = 0.01
"""Share of the tracks without an answer of the shadow version from which the report warns."""

_PART: Final = 5_000
"""Rows that are read at a time, so that other requests are answered in between."""

_COLUMNS: Final = (
    LoggedTrack.track_id,
    LoggedTrack.request_id,
    LoggedTrack.variant,
    LoggedTrack.shadow,
    LoggedTrack.onset_timestamp,
    LoggedTrack.largest_probability,
    LoggedTrack.model_version,
    Outcome.id.label("outcome_id"),
    Outcome.onset_timestamp.label("true_onset"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A quantity that an experiment compares."""

    name: str
    unit: str
    meaning: str
    largest: float
    """Largest value; the smallest one is 0."""
    margin: float
    """Largest difference that does not matter."""
    better: int
    """1 if larger values are better, -1 if smaller ones are, 0 if neither."""


ONSET_ERROR: Final = Metric(
    name="onset_error",
    unit="s",
    meaning=f"distance of the onset from the true onset, {LARGEST_ONSET_ERROR:g} s for a miss or a false alarm",
    largest=LARGEST_ONSET_ERROR,
    margin=0.5,
    better=-1,
)
ALARM_RATE: Final = Metric(
    name="alarm_rate", unit="", meaning="share of the tracks with an onset", largest=1.0, margin=0.02, better=0
)
LARGEST_PROBABILITY: Final = Metric(
    name="largest_probability",
    unit="",
    meaning="largest probability of reentry in the track",
    largest=1.0,
    margin=0.02,
    better=0,
)
METRICS: Final = (ONSET_ERROR, ALARM_RATE, LARGEST_PROBABILITY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Comparison of the two variants by one metric."""

    metric: Metric
    control_tracks: int
    """Tracks of the control that have the metric."""
    challenger_tracks: int
    control: float | None
    """Mean of the control; None without tracks."""
    challenger: float | None
    interval: Interval | None
    """Difference, challenger minus control; None if there are too few tracks."""

    @property
    def verdict(self) -> Verdict:
        """What the interval says."""
        if self.interval is None:
            return Verdict.UNDECIDED
        return self.interval.verdict(margin=self.metric.margin, better=self.metric.better)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Report of an experiment."""

    plan: Plan
    tracks: dict[Variant, int]
    """Tracks with an answer of each variant; in a shadow experiment the pairs."""
    versions: dict[Variant, list[int]]
    """Versions that answered."""
    outcomes: int
    """Tracks with a true onset."""
    agreement: float | None
    """Share of the pairs with the same decision; None for an A/B experiment, and without pairs."""
    compared: list[Compared]
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Answer:
    onset: float | None
    largest_probability: float
    version: int | None


@dataclass(slots=True)
class _Track:
    """Latest answers for a track, and its true onset."""

    answers: dict[str, _Answer] = field(default_factory=dict)
    has_outcome: bool = False
    true_onset: float | None = None


async def report_of(database: Database, plan: Plan) -> Report:
    """Compute the report of an experiment.

    Raises:
        DatabaseUnavailableError: the database does not answer.
    """
    query = (
        select(*_COLUMNS)
        .outerjoin(
            Outcome, and_(Outcome.account_id == LoggedTrack.account_id, Outcome.track_id == LoggedTrack.track_id)
        )
        .where(
            LoggedTrack.experiment_id == plan.id,
            LoggedTrack.account_id == plan.account_id,
            LoggedTrack.degraded.is_(False),
        )
        .order_by(LoggedTrack.id)
    )
    rows: list[Any] = []
    async with database.reading() as connection:
        result = await connection.stream(query)
        async for part in result.partitions(_PART):
            rows.extend(part)
    return await asyncio.to_thread(_report, plan, rows)


def _report(plan: Plan, rows: Sequence[Any]) -> Report:
    if plan.mode is Mode.SHADOW:
        tracks, missing = _pairs(rows)
    else:
        tracks, missing = _latest(rows), 0
    chosen = {
        variant: [(track, track.answers[variant]) for track in tracks if variant in track.answers]
        for variant in Variant
    }
    versions = {
        variant: sorted({answer.version for _, answer in answers if answer.version is not None})
        for variant, answers in chosen.items()
    }
    paired = plan.mode is Mode.SHADOW
    report = Report(
        plan=plan,
        tracks={variant: len(answers) for variant, answers in chosen.items()},
        versions=versions,
        outcomes=sum(track.has_outcome for track in tracks),
        agreement=_agreement(tracks) if paired else None,
        compared=[_compare(metric, chosen, paired=paired) for metric in METRICS],
    )
    report.warnings.extend(_warnings(report, missing))
    return report


def _latest(rows: Sequence[Any]) -> list[_Track]:
    """Latest answer for each track; rows are in the order of the answers."""
    tracks: dict[int, _Track] = {}
    for row in rows:
        track = tracks[row.track_id] = _track(row)
        track.answers[row.variant] = _answer(row)
    return list(tracks.values())


def _pairs(rows: Sequence[Any]) -> tuple[list[_Track], int]:
    """Latest pair of answers to one request for each track, and the number of tracks without a pair."""
    requests: dict[tuple[int, str], _Track] = {}
    for row in rows:
        track = requests.setdefault((row.track_id, row.request_id), _track(row))
        track.answers[row.variant] = _answer(row)
    latest = {track_id: track for (track_id, _), track in requests.items() if len(track.answers) == len(Variant)}
    return list(latest.values()), len({track_id for track_id, _ in requests} - latest.keys())


def _track(row: Any) -> _Track:
    return _Track(has_outcome=row.outcome_id is not None, true_onset=row.true_onset)


def _answer(row: Any) -> _Answer:
    return _Answer(row.onset_timestamp, row.largest_probability, row.model_version)


def _compare(metric: Metric, chosen: dict[Variant, list[tuple[_Track, _Answer]]], *, paired: bool) -> Compared:
    control, challenger = (_values(metric, chosen[variant]) for variant in (Variant.CONTROL, Variant.CHALLENGER))
    return Compared(
        metric=metric,
        control_tracks=len(control),
        challenger_tracks=len(challenger),
        control=float(control.mean()) if len(control) else None,
        challenger=float(challenger.mean()) if len(challenger) else None,
        interval=_interval(metric, control, challenger, paired=paired),
    )


def _interval(
    metric: Metric, control: npt.NDArray[np.float64], challenger: npt.NDArray[np.float64], *, paired: bool
) -> Interval | None:
    if min(len(control), len(challenger)) < FEWEST:
        return None
    alpha = ALPHA / len(METRICS)
    if paired:
        differences = Moments.of_values(challenger - control, low=-metric.largest, high=metric.largest)
        return mean_interval(differences, alpha=alpha)
    one, other = (Moments.of_values(values, low=0.0, high=metric.largest) for values in (control, challenger))
    return difference_interval(one, other, alpha=alpha)


def _values(metric: Metric, answers: list[tuple[_Track, _Answer]]) -> npt.NDArray[np.float64]:
    """Values of the tracks that have a metric, (N,)."""
    if metric is ALARM_RATE:
        values = [float(answer.onset is not None) for _, answer in answers]
    elif metric is LARGEST_PROBABILITY:
        values = [answer.largest_probability for _, answer in answers]
    else:
        values = [onset_error(answer.onset, track.true_onset) for track, answer in answers if track.has_outcome]
    return np.array(values, np.float64)


def onset_error(onset: float | None, true_onset: float | None) -> float:
    """Return the error of an onset, s; None stands for no reentry."""
    if onset is None or true_onset is None:
        return 0.0 if onset is true_onset else LARGEST_ONSET_ERROR
    return min(abs(onset - true_onset), LARGEST_ONSET_ERROR)


def _agreement(tracks: list[_Track]) -> float | None:
    if not tracks:
        return None
    onsets = [(track.answers[Variant.CONTROL].onset, track.answers[Variant.CHALLENGER].onset) for track in tracks]
    return sum(onset_error(one, other) <= AGREEMENT_SECONDS for one, other in onsets) / len(onsets)


def _warnings(report: Report, missing: int) -> list[str]:
    plan, tracks = report.plan, report.tracks
    found = [
        f"several versions answered as {variant} ({', '.join(map(str, versions))}), and the report mixes them; "
        "start another experiment after a promotion"
        for variant, versions in report.versions.items()
        if len(versions) > 1
    ]
    if missing > LARGEST_MISSING_SHARE * (missing + tracks[Variant.CONTROL]):
        found.append(
            f"{missing} tracks have no answer of the challenger, and the pairs may not represent all tracks; "
            "check that its model is served"
        )
    total = sum(tracks.values())
    if plan.mode is Mode.AB and total >= FEWEST:
        challengers = tracks[Variant.CHALLENGER]
        share = mean_interval(Moments.of(total, challengers, challengers, low=0.0, high=1.0), alpha=0.01)
        if not share.low <= plan.share <= share.high:
            found.append(
                f"the challenger has {share.estimate:.1%} of the tracks instead of {plan.share:.1%}, so answers of one "
                "variant are missing and the arms may not be comparable"
            )
    return found
