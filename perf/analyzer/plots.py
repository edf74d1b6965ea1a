"""Plots of a measurement: throughput against p99, and where the time of a request goes."""

from __future__ import annotations

from typing import Final

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from perf.analyzer.config import CONCURRENCY, Workload
from perf.analyzer.results import Figures, Report

_COLOURS: Final = {
    "client": "tab:grey",
    "queue": "tab:red",
    "compute input": "tab:cyan",
    "compute infer": "tab:blue",
    "compute output": "tab:purple",
    "other": "tab:orange",
}


def throughput_figure(report: Report) -> Figure:
    """Return a figure with one line for each scenario. Points whose figures cannot be relied on are hollow."""
    figure = Figure(figsize=(9, 6), dpi=100, layout="constrained")
    axes = figure.subplots()
    lines: dict[str, list[tuple[Workload, Figures, bool]]] = {}
    for result in report.results:
        if result.figures is not None:
            name = _scenario(result.workload)
            lines.setdefault(name, []).append((result.workload, result.figures, result.status == "stable"))
    for name, points in lines.items():
        points.sort(key=lambda point: point[0].level)
        across = [figures.tracks_per_second for _, figures, _ in points]
        (line,) = axes.plot(across, [figures.p99 for _, figures, _ in points], label=name)
        for workload, figures, stable in points:
            colour = line.get_color()
            face = colour if stable else "white"
            at = (figures.tracks_per_second, figures.p99)
            axes.plot(*at, "o", color=colour, markerfacecolor=face)
            axes.annotate(f"{workload.level:g}", at, xytext=(4, 4), textcoords="offset points", fontsize=8)
    axes.set_xlabel("tracks per second; each point names its level, hollow points are not stable")
    axes.set_ylabel("p99 latency, ms")
    axes.set_xlim(left=0.0)
    if lines:
        axes.set_yscale("log")
        for axis_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            axis_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        figure.legend(fontsize=8, loc="outside upper center", ncols=2)
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.set_title("Throughput and latency", fontsize=11)
    _sign(figure, report)
    return figure


def times_figure(report: Report) -> Figure:
    """Return a figure with one stacked bar for each workload: the mean time of a request by part."""
    measured = [(result.workload, result.figures) for result in report.results if result.figures is not None]
    figure = Figure(figsize=(9, 2.0 + 0.3 * len(measured)), dpi=100, layout="constrained")
    axes = figure.subplots()
    names = [f"{_scenario(workload)}, {workload.level:g}" for workload, _ in measured]
    left = [0.0] * len(measured)
    for part, colour in _COLOURS.items():
        values = [_parts(figures)[part] for _, figures in measured]
        axes.barh(range(len(measured)), values, left=left, color=colour, label=part)
        left = [start + value for start, value in zip(left, values, strict=True)]
    axes.set_yticks(range(len(measured)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("mean time of a request, ms")
    figure.legend(fontsize=8, loc="outside upper center", ncols=len(_COLOURS))
    axes.set_title("Where the time of a request goes", fontsize=11)
    _sign(figure, report)
    return figure


def _parts(figures: Figures) -> dict[str, float]:
    server = figures.server
    client = figures.client_send + figures.client_receive
    values = (client, server.queue, server.compute_input, server.compute_infer, server.compute_output, figures.other)
    return dict(zip(_COLOURS, values, strict=True))


def _scenario(workload: Workload) -> str:
    load = workload.load if workload.load == CONCURRENCY else f"{workload.load} rate"
    return f"{workload.model}, {workload.protocol}, batch {workload.batch}, {workload.length} steps, {load}"


def _sign(figure: Figure, report: Report) -> None:
    """Write the origin of the measurement below the axes."""
    machine, versions, config = report.machine, report.versions, report.config
    parts = (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB",
        f"server {versions['server']}, perf_analyzer {versions['perf_analyzer']}, onnxruntime "
        f"{versions['onnxruntime']}, git revision {report.git_revision[:12]}, windows of {config.window:g} s, "
        f"stability {config.stability:g}%",
    )
    figure.supxlabel("\n".join(parts), fontsize=7, color="tab:grey")
