"""Report of an experiment: what the inference log and the true onsets say about its two variants.

A track counts once, with its latest answer, because answers for the same track are not independent. In a shadow
experiment the challenger's row names the row of the control's answer, and both form a pair; the latest pair counts.
Answers of the fallback rule count for neither variant. The database computes the sums, so a report of many tracks is no
larger than one of a few.

The intervals are those of `gateway.comparison.confidence`. The error probability is divided by the number of metrics,
so that any of the verdicts of a report is a false alarm with a probability of at most `ALPHA`, however often the report
is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import ColumnElement, RowMapping, Select, and_, case, distinct, func, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import aliased

from gateway.comparison.assignment import Mode, Variant
from gateway.comparison.compared import METRIC_ALPHA, METRICS, Compared, Metric, onset_error, value_of
from gateway.comparison.confidence import FEWEST, Moments, difference_interval, mean_interval
from gateway.comparison.experiments import Plan
from gateway.database.engine import Database
from gateway.database.tables import LoggedTrack, Outcome
from reentry.decision import AGREEMENT_SECONDS

LARGEST_MISSING_SHARE: Final = 0.01
"""Share of the tracks without an answer of the shadow version from which the report warns."""


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


async def report_of(database: Database, plan: Plan) -> Report:
    """Compute the report of an experiment.

    Raises:
        DatabaseUnavailableError: the database does not answer.
    """
    async with database.reading() as connection:
        summary = _shadow if plan.mode is Mode.SHADOW else _ab
        report, missing = await summary(connection, plan)
    report.warnings.extend(_warnings(report, missing))
    return report


async def _ab(connection: AsyncConnection, plan: Plan) -> tuple[Report, int]:
    """Report of an experiment whose tracks have one variant each."""
    latest = select(func.max(LoggedTrack.id).label("id")).where(_counted(plan, LoggedTrack))
    latest_ids = latest.group_by(LoggedTrack.track_id).subquery()
    sums: dict[str, Any] = {"tracks": func.count(), "outcomes": func.count(Outcome.id)}
    for metric in METRICS:
        value = value_of(metric, LoggedTrack)
        sums |= {
            f"{metric.name}_count": func.count(value),
            f"{metric.name}_sum": func.sum(value),
            f"{metric.name}_squares": func.sum(value * value),
        }
    query = _with_outcomes(
        select(LoggedTrack.variant, *_named(sums)).join(latest_ids, latest_ids.c.id == LoggedTrack.id), LoggedTrack
    ).group_by(LoggedTrack.variant)
    rows = {row["variant"]: row for row in (await connection.execute(query)).mappings()}
    arms = [rows.get(variant) for variant in Variant]
    report = Report(
        plan=plan,
        tracks={variant: _count(row, "tracks") for variant, row in zip(Variant, arms, strict=True)},
        versions=await _versions(connection, plan),
        outcomes=sum(_count(row, "outcomes") for row in arms),
        agreement=None,
        compared=[_compare_arms(metric, *arms) for metric in METRICS],
    )
    return report, 0


def _compare_arms(metric: Metric, control: RowMapping | None, challenger: RowMapping | None) -> Compared:
    counts, means, moments = [], [], []
    for row in (control, challenger):
        count = _count(row, f"{metric.name}_count")
        counts.append(count)
        means.append(row[f"{metric.name}_sum"] / count if row is not None and count else None)
        if row is not None and count >= FEWEST:
            total, squares = row[f"{metric.name}_sum"], row[f"{metric.name}_squares"]
            moments.append(Moments.of(count, total, squares, low=0.0, high=metric.largest))
    return Compared(
        metric=metric,
        control_tracks=counts[0],
        challenger_tracks=counts[1],
        control=means[0],
        challenger=means[1],
        interval=difference_interval(*moments, alpha=METRIC_ALPHA) if len(moments) == len(counts) else None,
    )


async def _shadow(connection: AsyncConnection, plan: Plan) -> tuple[Report, int]:
    """Report of an experiment whose tracks both versions scored, and the number of tracks without a pair."""
    control, challenger = aliased(LoggedTrack), aliased(LoggedTrack)
    is_pair = and_(
        challenger.control_id == control.id,
        _counted(plan, challenger),
        challenger.variant == Variant.CHALLENGER.value,
    )
    is_control = and_(_counted(plan, control), control.variant == Variant.CONTROL.value)
    latest = (
        select(func.max(control.id).label("control"))
        .join(challenger, is_pair)
        .where(is_control)
        .group_by(control.track_id)
        .subquery()
    )
    onsets = control.onset_timestamp, challenger.onset_timestamp
    agrees = case((onset_error(*onsets) <= AGREEMENT_SECONDS, 1), else_=0)
    sums: dict[str, Any] = {"tracks": func.count(), "outcomes": func.count(Outcome.id), "agreeing": func.sum(agrees)}
    for metric in METRICS:
        one, other = value_of(metric, control), value_of(metric, challenger)
        sums |= {
            f"{metric.name}_count": func.count(one),
            f"{metric.name}_control": func.sum(one),
            f"{metric.name}_challenger": func.sum(other),
            f"{metric.name}_squares": func.sum((other - one) * (other - one)),
        }
    query = _with_outcomes(
        select(*_named(sums))
        .select_from(latest)
        .join(control, control.id == latest.c.control)
        .join(challenger, is_pair),
        control,
    )
    row = (await connection.execute(query)).mappings().one()
    all_tracks = await connection.scalar(select(func.count(distinct(control.track_id))).where(is_control))
    pairs = _count(row, "tracks")
    report = Report(
        plan=plan,
        tracks=dict.fromkeys(Variant, pairs),
        versions=await _versions(connection, plan),
        outcomes=_count(row, "outcomes"),
        agreement=row["agreeing"] / pairs if pairs else None,
        compared=[_compare_pairs(metric, row) for metric in METRICS],
    )
    return report, int(all_tracks or 0) - pairs


def _compare_pairs(metric: Metric, row: RowMapping) -> Compared:
    count = _count(row, f"{metric.name}_count")
    totals = [row[f"{metric.name}_{variant}"] for variant in Variant]
    interval = None
    if count >= FEWEST:
        squares = row[f"{metric.name}_squares"]
        differences = Moments.of(count, totals[1] - totals[0], squares, low=-metric.largest, high=metric.largest)
        interval = mean_interval(differences, alpha=METRIC_ALPHA)
    return Compared(
        metric=metric,
        control_tracks=count,
        challenger_tracks=count,
        control=totals[0] / count if count else None,
        challenger=totals[1] / count if count else None,
        interval=interval,
    )


async def _versions(connection: AsyncConnection, plan: Plan) -> dict[Variant, list[int]]:
    """Versions of the network that answered as each variant."""
    query = select(LoggedTrack.variant, LoggedTrack.model_version).where(_counted(plan, LoggedTrack)).distinct()
    rows = (await connection.execute(query)).all()
    return {
        variant: sorted(row.model_version for row in rows if row.variant == variant and row.model_version is not None)
        for variant in Variant
    }


def _counted(plan: Plan, answer: type[LoggedTrack]) -> ColumnElement[bool]:
    """Condition of the answers that count for an experiment."""
    return and_(answer.account_id == plan.account_id, answer.experiment_id == plan.id, answer.degraded.is_(False))


def _with_outcomes(query: Select[Any], answer: type[LoggedTrack]) -> Select[Any]:
    return query.outerjoin(Outcome, and_(Outcome.account_id == answer.account_id, Outcome.track_id == answer.track_id))


def _named(sums: dict[str, Any]) -> Sequence[ColumnElement[Any]]:
    return [column.label(name) for name, column in sums.items()]


def _count(row: RowMapping | None, name: str) -> int:
    return 0 if row is None else int(row[name] or 0)


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
            "check that its model is served and keeps up"
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
