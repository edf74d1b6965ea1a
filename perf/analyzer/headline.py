"""Headline of a report: the throughput of the server divided by that of ONNX Runtime in process, the ceiling."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from perf.analyzer.config import CONCURRENCY
from perf.analyzer.production import STEP_GRAPH, TRACK_GRAPH
from perf.analyzer.results import CeilingRate, Figures, Report, WorkloadResult
from perf.tables import table

_TITLES = (
    "steps",
    "batch",
    "served by",
    "result",
    "in process",
    "served, tracks/s",
    "ceiling, tracks/s",
    "served / ceiling",
)
_RATE_TITLES = ("graph", "steps", "batch", "arrangement", "median", "lowest", "highest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Throughput of the server and its ceiling, for tracks of one batch and length."""

    batch: int
    length: str
    served: tuple[WorkloadResult, Figures] | None
    """Workload with the most tracks per second, among the stable ones if there is one; None if all have failed."""
    ceiling: CeilingRate
    stable: bool
    """Whether the workload and the windows of the ceiling are stable within the configured percentage."""

    @property
    def share(self) -> float | None:
        """Throughput of the server divided by the ceiling; None if all workloads have failed."""
        return None if self.served is None else self.served[1].tracks_per_second / self.ceiling.median


def shares_of(report: Report) -> list[Share]:
    """Return the share of each length and batch; empty if there is no ceiling."""
    shares = []
    for length in report.config.lengths:
        for batch in report.config.batches:
            ceiling = report.ceiling.best(TRACK_GRAPH, batch, length)
            if ceiling is not None:
                served = _best_served(report, batch, length)
                stable = served is not None and served[0].status == "stable"
                stable = stable and ceiling.stable(report.config.stability)
                shares.append(Share(batch=batch, length=length, served=served, ceiling=ceiling, stable=stable))
    return shares


def headline(shares: list[Share], length: str) -> tuple[Share | None, Share | None]:
    """Return the share of single tracks, and that of the batch with the highest ceiling, for tracks of one length.

    Either is None if the settings have no such batch.
    """
    own = [each for each in shares if each.length == length]
    single = next((each for each in own if each.batch == 1), None)
    batches = max((each for each in own if each.batch > 1), key=lambda each: each.ceiling.median, default=None)
    return single, batches


def ceiling_dict(report: Report) -> dict[str, Any]:
    """Return the ceiling and the shares as JSON content."""
    shares = shares_of(report)
    content = asdict(report.ceiling)
    content["rates"] = [{**asdict(rate), "median": rate.median} for rate in report.ceiling.rates]
    content["shares"] = [_share_dict(each) for each in shares]
    content["headline"] = [
        {"length": length, **{name: _share_dict(each) for name, each in zip(("single", "batches"), found, strict=True)}}
        for length, found in ((length, headline(shares, length)) for length in report.config.lengths)
    ]
    return content


def headline_lines(report: Report) -> list[str]:
    """Return the headline in Markdown, one line for each length, or the reason why there is none."""
    reason = report.ceiling.missing.get(TRACK_GRAPH)
    if reason is not None:
        return [f"**served / ceiling: not measured**, {reason}."]
    shares = shares_of(report)
    lines = []
    for length in report.config.lengths:
        single, batches = headline(shares, length)
        size = "" if batches is None else f" of {batches.batch}"
        lines.append(
            f"- **served / ceiling, {length} steps: {_number(single)} for single tracks, {_number(batches)} for "
            f"batches{size}**"
        )
    return lines


def ceiling_lines(report: Report) -> list[str]:
    """Return the tables of shares and of rates in Markdown, with everything that was not measured."""
    ceiling = report.ceiling
    shares = shares_of(report)
    lines = [f"{graph} was not measured in process: {reason}." for graph, reason in ceiling.missing.items()]
    if ceiling.remote and ceiling.rates:
        lines.append(
            "The server was given by its URL. It may run on another machine, and the ceiling is that of this one."
        )
    if shares:
        lines += [
            f"`ceiling` is ONNX Runtime in process on {TRACK_GRAPH} of version {ceiling.version}, for the same tracks, "
            "at the best arrangement of threads:",
            "\n".join(table(_TITLES, [_share_cells(each) for each in shares], words=5)),
        ]
    if ceiling.rates:
        lines += [
            f"Every arrangement in process, in tracks per second; for {STEP_GRAPH}, one step at a time, in steps per "
            f"second. Windows of {report.config.window:g} s:",
            "\n".join(table(_RATE_TITLES, [_rate_cells(each) for each in ceiling.rates], words=4)),
        ]
    return [line for part in lines for line in (part, "")]


def _best_served(report: Report, batch: int, length: str) -> tuple[WorkloadResult, Figures] | None:
    served = [
        (each, each.figures)
        for each in report.results
        if each.figures is not None and (each.workload.batch, each.workload.length) == (batch, length)
    ]
    return max(served, key=lambda each: (each[0].status == "stable", each[1].tracks_per_second), default=None)


def _share_dict(share: Share | None) -> dict[str, Any] | None:
    if share is None:
        return None
    served = None
    if share.served is not None:
        result, figures = share.served
        served = {**asdict(result.workload), "status": result.status, "tracks_per_second": figures.tracks_per_second}
    ceiling = {
        "workers": share.ceiling.workers,
        "threads": share.ceiling.threads,
        "tracks_per_second": share.ceiling.median,
    }
    own = {"batch": share.batch, "length": share.length, "share": share.share, "stable": share.stable}
    return {**own, "served": served, "ceiling": ceiling}


def _share_cells(share: Share) -> list[str]:
    served, result, rate = "-", "failed", "-"
    if share.served is not None:
        found, figures = share.served
        workload, result, rate = found.workload, found.status, f"{figures.tracks_per_second:,.0f}"
        unit = "" if workload.load == CONCURRENCY else "/s"
        served = f"{workload.model}, {workload.protocol}, {workload.load} {workload.level:g}{unit}"
    ceiling = share.ceiling
    words = [share.length, str(share.batch), served, result, ceiling.arrangement]
    return [*words, rate, f"{ceiling.median:,.0f}", _number(share)]


def _rate_cells(rate: CeilingRate) -> list[str]:
    figures = (rate.median, min(rate.windows), max(rate.windows))
    words = [rate.graph, rate.length or "-", str(rate.batch), rate.arrangement]
    return [*words, *(f"{figure:,.0f}" for figure in figures)]


def _number(share: Share | None) -> str:
    if share is None:
        return "none measured"
    if share.share is None:
        return "failed"
    return f"{share.share:.3f}" if share.stable else f"{share.share:.3f} (unstable)"
