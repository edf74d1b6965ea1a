"""Report of a search: tune.csv, tune.json, tune.md, and tuned.toml if better settings were found."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from perf.analyzer.output import STALL
from perf.analyzer.report import origin_lines, result_dict, result_row, rows_as_csv
from perf.analyzer.results import WorkloadResult
from perf.tables import table
from perf.tuning.candidates import described
from perf.tuning.overlay import as_toml
from perf.tuning.search import stalled
from perf.tuning.tune import Finalist, TuneReport
from reentry.runtime.files import whole_file
from reentry.serving.tuned import ModelTuning

OVERLAY: Final = "tuned.toml"
REPORTS: Final = ("tune.csv", "tune.json", "tune.md")

_FINALISTS: Final = ("settings", "batch", "concurrency", "tracks/s", "lowest", "highest", "p99 ms", "stalled", "result")
_CANDIDATES: Final = ("settings", "batch", "concurrency", "tracks/s", "p50 ms", "p99 ms", "stalled", "result")


def write_reports(report: TuneReport, out: Path) -> list[Path]:
    """Write the reports into `out`, and the tuned settings if they are better than the present ones.

    A file of tuned settings that an earlier search left in the folder is removed otherwise.

    Returns:
        The files that were written.
    """
    texts = {
        "tune.csv": rows_as_csv(_rows(report), report),
        "tune.json": json.dumps(as_dict(report), indent=2) + "\n",
        "tune.md": markdown(report),
    }
    if report.better is not None:
        texts[OVERLAY] = overlay(report, report.better)
    else:
        (out / OVERLAY).unlink(missing_ok=True)
    for name, text in texts.items():
        with whole_file(out / name) as part:
            part.write_text(text, encoding="utf-8")
    return [out / name for name in texts]


def overlay(report: TuneReport, better: Finalist) -> str:
    """Return the text of the file with the tuned settings."""
    machine = report.machine
    comments = (
        f"Settings of {report.subject.model} that `reentry perf tune` found: {_headline(report)}.",
        f"Measured with batches of {better.workload.batch} tracks of {better.workload.length} steps at concurrency "
        f"{better.workload.level:g} over {better.workload.protocol}",
        f"on {machine['processor']}, {machine['cores']} cores; reentry {report.versions['reentry']}, git revision "
        f"{report.git_revision}.",
        f"Use: reentry serve --tuned {OVERLAY}, or reentry perf apply {OVERLAY} --repository FOLDER",
    )
    return as_toml(report.subject.tables(better.settings), comments)


def as_dict(report: TuneReport) -> dict[str, Any]:
    """Return the report as JSON content; all times are in ms."""
    better = report.better
    return {
        "headline": _headline(report),
        "model": report.subject.model,
        "now": _finalist_dict(report.now),
        "best": None if report.best is None else _finalist_dict(report.best),
        "better": better is not None,
        "tuned": {}
        if better is None
        else {name: each.as_dict() for name, each in report.subject.tables(better.settings).items()},
        "objective": report.objective,
        "config": report.config.as_dict(),
        "tune": report.tune.as_dict(),
        "machine": report.machine,
        "versions": report.versions,
        "git_revision": report.git_revision,
        "finalists": [_finalist_dict(each) for each in report.finalists],
        "candidates": [
            {"settings": asdict(settings), "results": [result_dict(result) for result in results]}
            for settings, results in report.measured.items()
        ],
    }


def markdown(report: TuneReport) -> str:
    """Return the Markdown report: headline, origin, confirmation, table of the candidates."""
    limit = "" if report.objective is None else f" that hold {report.objective}"
    lines = [f"# Tuning of {report.subject.model}", "", f"**{_headline(report)}**", ""]
    lines += [*origin_lines(report), f"- searched: the settings with the most tracks per second{limit}", ""]
    lines += [
        f"Confirmation in {report.tune.turns} turns, with windows of twice that length. `tracks/s` is the median of",
        "the turns, and `p99 ms` the highest one:",
        "",
        *table(_FINALISTS, [_finalist_cells(each) for each in report.finalists], words=1),
        "",
    ]
    if report.best is not None:
        lines += [f"Clients choose the batch. With the best settings, the search measured {_by_batch(report)}.", ""]
    rows = [_candidate_cells(settings, result) for settings, results in report.measured.items() for result in results]
    lines += [
        "Search, with each batch and concurrency:",
        "",
        *table(_CANDIDATES, rows, words=1),
        "",
        f"`stalled` counts requests above {STALL:g} ms among those that were recorded one by one. Settings whose queue "
        "stalled a request are not chosen.",
        "",
    ]
    return "\n".join(lines)


def _by_batch(report: TuneReport) -> str:
    assert report.best is not None, "checked by `markdown`"
    highest: dict[int, float] = {}
    for result in report.measured[report.best.settings]:
        if result.figures is not None:
            batch = result.workload.batch
            highest[batch] = max(highest.get(batch, 0.0), result.figures.tracks_per_second)
    return ", ".join(f"{speed:,.0f} tracks/s with batches of {batch}" for batch, speed in highest.items())


def _headline(report: TuneReport) -> str:
    now, best, better = report.now, report.best, report.better
    speed = f"now {now.median:,.0f} tracks/s"
    if best is None:
        return f"{speed}; no settings run in each turn {_conditions(report)}"
    if better is None:
        return f"{speed}; no settings are better by more than the noise, so the present ones stay"
    if now.held == 0:
        return f"{speed}, in no turn {_conditions(report)}; best {better.median:,.0f} tracks/s"
    return f"{speed}, best {better.median:,.0f} ({better.median / now.median - 1:+.0%})"


def _conditions(report: TuneReport) -> str:
    limit = "" if report.objective is None else f"within {report.objective} and "
    return f"{limit}without failed or stalled requests"


def _rows(report: TuneReport) -> list[dict[str, Any]]:
    search = [("search", settings, result) for settings, results in report.measured.items() for result in results]
    turns = [("confirmation", each.settings, result) for each in report.finalists for result in each.turns]
    return [{"phase": phase, **asdict(settings), **result_row(result)} for phase, settings, result in search + turns]


def _finalist_dict(finalist: Finalist) -> dict[str, Any]:
    return {
        "settings": asdict(finalist.settings),
        "present": finalist.present,
        "held": finalist.held,
        "batch": finalist.workload.batch,
        "concurrency": finalist.workload.level,
        "tracks_per_second": finalist.median,
        "turns": [result_dict(turn) for turn in finalist.turns],
    }


def _finalist_cells(finalist: Finalist) -> list[str]:
    workload, speeds = finalist.workload, finalist.throughputs
    p99 = max((each.p99 for each in finalist.figures), default=None)
    return [
        ("now: " if finalist.present else "") + described(finalist.settings),
        *(str(workload.batch), f"{workload.level:g}"),
        *(f"{each:,.0f}" for each in (finalist.median, min(speeds), max(speeds))),
        "-" if p99 is None else f"{p99:.1f}",
        str(finalist.stalls) if finalist.settings.queued else "-",
        f"held in {finalist.held} of {len(finalist.turns)}",
    ]


def _candidate_cells(settings: ModelTuning, result: WorkloadResult) -> list[str]:
    figures, workload = result.figures, result.workload
    cells = [described(settings), str(workload.batch), f"{workload.level:g}"]
    if figures is None:
        return [*cells, "-", "-", "-", "-", result.status]
    count = f"{result.stalls} of {result.recorded}" if result.recorded else "-"
    speeds = [f"{figures.tracks_per_second:,.0f}", f"{figures.p50:.1f}", f"{figures.p99:.1f}"]
    return [*cells, *speeds, count, "stalled" if stalled(result, settings) else result.status]
