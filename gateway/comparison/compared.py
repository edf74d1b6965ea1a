"""The metrics that experiments compare, and how each follows from a row of the inference log and the true onset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Float, and_, case, func, or_

from gateway.comparison.confidence import ALPHA, Interval, Verdict
from gateway.database.tables import LoggedTrack, Outcome

LARGEST_ONSET_ERROR: Final = 60.0
"""Onset error of a missed reentry and of a false alarm, and the largest one of all others, s."""

Number = ColumnElement[float]


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
METRIC_ALPHA: Final = ALPHA / len(METRICS)
"""Error probability of each metric, so that all together have `ALPHA`."""


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


def value_of(metric: Metric, answer: type[LoggedTrack]) -> Number:
    """Value of a metric for an answer; NULL if the track does not have it."""
    if metric is ALARM_RATE:
        return case((answer.onset_timestamp.is_(None), 0.0), else_=1.0)
    if metric is LARGEST_PROBABILITY:
        return answer.largest_probability.expression
    return case((Outcome.id.is_not(None), onset_error(answer.onset_timestamp, Outcome.onset_timestamp)))


def onset_error(onset: Any, true_onset: Any) -> Number:
    """Distance of two onsets, at most `LARGEST_ONSET_ERROR`; NULL stands for no reentry."""
    distance = func.abs(onset - true_onset, type_=Float())
    return case(
        (and_(onset.is_(None), true_onset.is_(None)), 0.0),
        (or_(onset.is_(None), true_onset.is_(None), distance > LARGEST_ONSET_ERROR), LARGEST_ONSET_ERROR),
        else_=distance,
    )
