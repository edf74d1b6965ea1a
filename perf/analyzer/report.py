"""Report of a measurement: perf.csv, perf.json, perf.md and two plots."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from perf.analyzer.config import CONCURRENCY
from perf.analyzer.headline import ceiling_dict, ceiling_lines, headline_lines
from perf.analyzer.output import STALL
from perf.analyzer.results import PERCENTILES, Figures, Highest, Origin, Report, WorkloadResult
from perf.tables import table
from reentry.runtime.files import whole_file

JSON_FILE: Final = "perf.json"

_LATENCIES: Final = (
    *("model", "protocol", "batch", "steps", "load", "tracks/s"),
    *(f"p{percentile} ms" for percentile in PERCENTILES),
    *("stalled", "result"),
)
_TIMES: Final = (
    *("model", "protocol", "batch", "steps", "load", "mean ms"),
    *("client", "queue", "compute input", "compute infer", "compute output", "other"),
)


def write_report(report: Report, out: Path) -> list[Path]:
    """Write all files into `out` and return their paths."""
    from perf.analyzer.plots import throughput_figure, times_figure

    texts = {
        "perf.csv": as_csv(report),
        JSON_FILE: json.dumps(as_dict(report), indent=2) + "\n",
        "perf.md": markdown(report),
    }
    for name, text in texts.items():
        with whole_file(out / name) as part:
            part.write_text(text, encoding="utf-8")
    plots = {"throughput.png": throughput_figure, "times.png": times_figure}
    for name, draw in plots.items():
        with whole_file(out / name) as part:
            draw(report).savefig(part, format="png")
    return [out / name for name in (*texts, *plots)]


def as_dict(report: Report) -> dict[str, Any]:
    """Return the report as JSON content; all times are in ms."""
    return asdict(report) | {
        "config": report.config.as_dict(),
        "results": [result_dict(result) for result in report.results],
        "ceiling": ceiling_dict(report),
    }


def as_csv(report: Report) -> str:
    """Return one row for each workload, with the origin of the measurement in each row; all times are in ms."""
    return rows_as_csv([result_row(result) for result in report.results], report)


def rows_as_csv(rows: Sequence[Mapping[str, Any]], origin: Origin) -> str:
    """Return rows as CSV, with the origin of the measurement in each row."""
    common = {**origin.machine, **{f"{name}_version": version for name, version in origin.versions.items()}}
    common |= {"git_revision": origin.git_revision, "config": json.dumps(origin.config.as_dict())}
    rows = [{**row, **common} for row in rows]
    columns = dict.fromkeys(name for row in rows for name in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def result_row(result: WorkloadResult) -> dict[str, Any]:
    """Return the result of a workload as one row, without the members of an ensemble; all times are in ms."""
    content = result_dict(result)
    figures = content.pop("figures") or {}
    figures.pop("members", None)
    server = figures.pop("server", {})
    return {**content, **figures, **server}


def markdown(report: Report) -> str:
    """Return the Markdown report: headline, origin, ceiling, table of latencies, search, table of times."""
    measured = [(result, result.figures) for result in report.results if result.figures is not None]
    lines = ["# Performance", "", *headline_lines(report), "", *origin_lines(report), ""]
    lines += ceiling_lines(report)
    if report.objective is not None:
        lines += [f"Highest load that holds {report.objective}:", ""]
        lines += [*(_highest_line(each) for each in report.highest), ""]
    lines += [*table(_LATENCIES, [_latency_cells(result) for result in report.results], words=5), ""]
    lines += _notes(report)
    if measured:
        lines += ["Mean time of a request in ms, and where it goes:", ""]
        lines += [*table(_TIMES, [_time_cells(result, figures) for result, figures in measured], words=5), ""]
        lines += ["`other` is the network, the server outside of the models, and the steps between the members of an"]
        lines += ["ensemble. The times of an ensemble are the sums of those of its members:", ""]
        lines += [*_member_lines(measured)]
    return "\n".join(lines).rstrip() + "\n"


def origin_lines(report: Origin) -> list[str]:
    """Return the origin of a measurement in Markdown: machine, server, versions and windows."""
    machine, config = report.machine, report.config
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    place = ", ".join(report.urls) if report.urls else "an embedded one, which shares the machine with the client"
    return [
        f"- machine of the client: {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB",
        f"- server: {place}",
        f"- versions: {versions}; git revision {report.git_revision}",
        f"- three windows of {config.window:g} s each; stable if they differ by at most {config.stability:g}%",
    ]


def _notes(report: Report) -> list[str]:
    notes = [f"`stalled` counts the requests above {STALL:g} ms among those that were recorded one by one."]
    if report.config.is_live:
        notes.append("`tracks/s` counts updates: each request has one measurement of a live track.")
    found = {result.status for result in report.results}
    if "unstable" in found:
        notes.append(
            f"`unstable`: within {report.config.windows} windows no three in succession agreed. These figures cannot "
            "be relied on."
        )
    if "late" in found:
        notes.append("`late`: perf_analyzer could not send the requests at this rate.")
    notes += [f"`failed`: {result.workload}: {result.failure}" for result in report.results if result.failure]
    return [line for note in notes for line in (note, "")]


def _highest_line(highest: Highest) -> str:
    scenario = f"{highest.model}, {highest.protocol}, batch {highest.batch}, {highest.length} steps, {highest.load}"
    if highest.level is None:
        return f"- {scenario}: **none**, not even the lowest level of the configuration"
    unit = "" if highest.load == CONCURRENCY else " requests/s"
    end = " (the highest level of the configuration)" if highest.at_limit else ""
    return f"- {scenario}: **{highest.level:g}**{unit}{end}"


def result_dict(result: WorkloadResult) -> dict[str, Any]:
    """Return the result of a workload as JSON content; all times are in ms."""
    content = asdict(result)
    workload = content.pop("workload")
    if result.figures is not None:
        content["figures"]["other"] = result.figures.other
    return {**workload, "status": result.status, **content}


def _workload_cells(result: WorkloadResult) -> list[str]:
    workload = result.workload
    load = f"{workload.load} {workload.level:g}" + ("" if workload.load == CONCURRENCY else "/s")
    return [workload.model, workload.protocol, str(workload.batch), workload.length, load]


def _latency_cells(result: WorkloadResult) -> list[str]:
    figures = result.figures
    if figures is None:
        return [*_workload_cells(result), *["-"] * (len(PERCENTILES) + 2), result.status]
    stalled = f"{result.stalls} of {result.recorded}" if result.recorded else "-"
    percentiles = [f"{getattr(figures, f'p{percentile}'):.1f}" for percentile in PERCENTILES]
    return [*_workload_cells(result), f"{figures.tracks_per_second:,.0f}", *percentiles, stalled, result.status]


def _time_cells(result: WorkloadResult, figures: Figures) -> list[str]:
    server = figures.server
    client = figures.client_send + figures.client_receive
    parts = (client, server.queue, server.compute_input, server.compute_infer, server.compute_output, figures.other)
    times = (figures.mean, *parts)
    return [*_workload_cells(result), *(f"{time:.2f}" for time in times)]


def _member_lines(measured: list[tuple[WorkloadResult, Figures]]) -> list[str]:
    titles = ("member", "of", "load", "queue", "compute input", "compute infer", "compute output")
    rows = []
    for result, figures in measured:
        model, protocol, batch, length, load = _workload_cells(result)
        for name, times in figures.members.items():
            values = (times.queue, times.compute_input, times.compute_infer, times.compute_output)
            of = f"{model}, {protocol}, batch {batch}, {length} steps"
            rows.append([name, of, load, *(f"{value:.2f}" for value in values)])
    return table(titles, rows, words=3) if rows else []
