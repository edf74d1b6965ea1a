"""Report of a replay: stream.json and stream.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from perf.generator import LATE
from perf.stream.agreement import TOLERANCE
from perf.stream.monitor import growth
from perf.stream.results import STALL, StreamReport
from perf.tables import table
from reentry.runtime.files import whole_file

REPORTS: Final = ("stream.json", "stream.md")


def write_reports(report: StreamReport, out: Path) -> list[Path]:
    """Write stream.json and stream.md into `out` and return their paths."""
    texts = dict(zip(REPORTS, (json.dumps(report.as_dict(), indent=2) + "\n", markdown(report)), strict=True))
    for name, text in texts.items():
        with whole_file(out / name) as part:
            part.write_text(text, encoding="utf-8")
    return [out / name for name in texts]


def markdown(report: StreamReport) -> str:
    """Return the report in Markdown."""
    config, figures, host = report.config, report.figures, report.machine
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    rate = f"closed loop, {config.limit} requests in flight" if config.rate is None else f"{config.rate:g} Hz each"
    rows = [
        ("offered, updates/s", "-" if figures.offered is None else f"{figures.offered:,.0f}"),
        ("answered in time, updates/s", f"{figures.achieved:,.0f}"),
        ("requests", f"{figures.requests:,}"),
        *((f"latency {name}, ms", f"{value:,.2f}") for name, value in figures.latency.items()),
        (f"stalls, above {STALL:g} ms", f"{figures.stalls:,}"),
        (f"sent more than {LATE:g} ms late", f"{figures.late:.2%}"),
        ("latest sending, ms", f"{figures.latest:,.1f}"),
        ("measurements that were not accepted", f"{figures.unaccepted:,}"),
        ("refused requests", f"{sum(figures.errors.values()):,}"),
        ("processor time of the generator, cores", f"{report.client_cpu:.2f}"),
        *_server_rows(report),
    ]
    lines = [
        f"# Live tracks: {config.tracks:,} in mode {config.mode}",
        "",
        f"**{_headline(report)}**",
        "",
        f"- load: {rate}, feeds: {config.feeds}, {config.duration:g} s; seed {config.seed}; model {config.model.name}",
        f"- machine of the client: {host['processor']}, {host['cores']} cores, {host['memory_gib']} GiB",
        f"- server: {report.server}; {versions}; git revision {report.git_revision}",
        f"- answers: {_agreement(report)}",
        "",
        *table(("measured", "value"), rows),
        "",
        "An update is one measurement of one track. At a fixed rate, latencies count from the time at which a request "
        "was due.",
        *(["", _generator(report)] if report.generator_limits else []),
    ]
    lines += [f"\nRefused {count:,} times: {reason}" for reason, count in figures.errors.items()]
    return "\n".join(lines) + "\n"


def _headline(report: StreamReport) -> str:
    figures = report.figures
    p99 = f"p99 {figures.latency['p99']:,.1f} ms" if figures.latency else "no answer"
    if figures.offered is None:
        return f"{figures.achieved:,.0f} updates/s, {p99}"
    verdict = "held" if report.held else "not held"
    if figures.behind:
        verdict += ": the server fell behind, and the replay ended early"
    return f"{figures.achieved:,.0f} of {figures.offered:,.0f} updates/s, {p99}, {figures.stalls:,} stalls: {verdict}"


def _generator(report: StreamReport) -> str:
    if report.config.rate is None:
        reason = f"it used {report.client_cpu:.2f} of one core"
    else:
        reason = f"it sent {report.figures.late:.0%} of the requests more than {LATE:g} ms late"
    return (
        f"**The generator, not the server alone, was the limit: {reason}.** Run it on an idle machine, or on "
        "another one with --url."
    )


def _agreement(report: StreamReport) -> str:
    found = report.agreement
    if found.model is None:
        return "not compared with whole tracks, because the server has no model of whole tracks"
    verdict = "too large" if found.failed else "as required"
    return (
        f"{found.measurements:,} probabilities of {found.tracks} tracks differ from those of {found.model} by at most "
        f"{found.largest:.1e}, {verdict} (limit {TOLERANCE:g})"
    )


def _server_rows(report: StreamReport) -> list[tuple[str, str]]:
    if report.server_cpu is None or not report.memory:
        return []
    slope = growth(report.memory)
    return [
        ("processor time of the server, cores", f"{report.server_cpu:.2f}"),
        ("processor time of the server, µs per update", f"{1e6 * report.server_cpu / report.figures.achieved:,.1f}"),
        ("memory of the server at the start, MiB", f"{report.memory[0].mebibytes:,.0f}"),
        ("memory of the server at the end, MiB", f"{report.memory[-1].mebibytes:,.0f}"),
        ("growth of the memory, MiB per minute", "too short" if slope is None else f"{slope:+.2f}"),
    ]
