"""A study as files: study.md, one table, and plots of onset error by severity and of calibration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.figure import Figure

from reentry.runtime.files import whole_file
from training.models.baselines import THRESHOLD_TRACKS, AltitudeThreshold, BoostedTrees, DragThreshold
from training.studies.study import KNOWN_PATH, LARGEST, LSTM_NAME, StudyConfig, StudyRow, networks

REPORT_NAME: Final = "study.md"

_COLUMNS: Final = {
    "onset_rmse": ("onset RMSE, s", "{:.2f}"),
    "onset_worst": ("worst, s", "{:.0f}"),
    "f1": ("F1", "{:.4f}"),
    "detection_delay": ("delay, s", "{:.2f}"),
    "false_alarms": ("false alarms per 1,000", "{:.1f}"),
    "brier": ("Brier", "{:.5f}"),
}
_LOWEST_IS_WORST: Final = ("f1",)

_COLOURS: Final = {
    LSTM_NAME: "tab:red",
    BoostedTrees.name: "tab:green",
    DragThreshold.name: "tab:blue",
    AltitudeThreshold.name: "tab:purple",
    KNOWN_PATH: "black",
}


def write_report(rows: Sequence[StudyRow], config: StudyConfig, out: Path, command: str) -> list[Path]:
    """Write study.md and two plots into `out` and give their paths."""
    with whole_file(out / REPORT_NAME) as part:
        part.write_text(markdown(rows, config, command), encoding="utf-8")
    figures = {"study.png": errors_figure(rows), "study_reliability.png": reliability_figure(rows)}
    for name, figure in figures.items():
        with whole_file(out / name) as part:
            figure.savefig(part, format="png")
    return [out / REPORT_NAME, *(out / name for name in figures)]


def markdown(rows: Sequence[StudyRow], config: StudyConfig, command: str) -> str:
    """The table, a row for each method and severity; over several seeds a cell holds the mean and the worst."""
    seeds = sorted({row.seed for row in rows})
    flights = config.training_flights * len(config.severities)
    lines = [
        "# Study on ballistic flights",
        "",
        f"`{command}`: {_count(len(seeds), 'seed')}"
        f"{', mean / worst over them' if len(seeds) > 1 else ''}; each trains on {flights:,} flights, "
        f"{config.training_flights:,} of each severity, all severities together "
        f"(thresholds: each severity by itself, on about {THRESHOLD_TRACKS}), "
        f"and is judged on {config.unseen_flights:,} flights of each severity that no method has seen.",
        "A track without onset counts as if reentry began one step after its end. A false alarm is one more than 5 s "
        "before the onset. Time per step is the processor's, of the method alone, features given, flight by flight.",
        f"The {KNOWN_PATH} is no method but an estimate of what the noise allows, to first order in the drag: Bayes' "
        "rule, with the true path and each sensor's bias, clock and noise given, and only the ballistic coefficient to "
        "be found.",
        "",
        "| severity | method | " + " | ".join(title for title, _ in _COLUMNS.values()) + " | size | µs a step |",
        "| ---: | --- |" + " ---: |" * (len(_COLUMNS) + 2),
    ]
    for severity in sorted({row.severity for row in rows}):
        for method, of_method in _by_method(rows, severity).items():
            cells = [
                _cell(name, form, [row.metrics[name] for row in of_method]) for name, (_, form) in _COLUMNS.items()
            ]
            size = f"{np.mean([row.parameters for row in of_method]):,.0f}"
            times = [row.step_microseconds for row in of_method if row.step_microseconds is not None]
            spent = f"{np.median(times):.2g}" if times else "-"
            lines.append(f"| {severity} | {method} | " + " | ".join([*cells, size, spent]) + " |")
    lines += ["", *comparison(rows), ""]
    best = winner(rows, config)
    if best:
        lines += [f"The network of least onset RMSE over all severities, of at most {LARGEST:,} weights: {best}.", ""]
    return "\n".join(lines)


def comparison(rows: Sequence[StudyRow]) -> list[str]:
    """How the LSTM's onset RMSE compares with each baseline's and with what can be had, a line for each severity."""
    lines = []
    for severity in sorted({row.severity for row in rows}):
        means = {
            method: float(np.mean([row.metrics["onset_rmse"] or 0.0 for row in of_method]))
            for method, of_method in _by_method(rows, severity).items()
        }
        own = means.get(LSTM_NAME)
        if own:
            beside = (BoostedTrees.name, AltitudeThreshold.name, DragThreshold.name, KNOWN_PATH)
            others = [name for name in beside if name in means]
            told = ", ".join(f"{name} {means[name]:.2f} s ({means[name] / own:.1f} times)" for name in others)
            lines.append(f"- severity {severity}: LSTM {own:.2f} s; {told}")
    return ["Onset RMSE beside the LSTM's:", "", *lines] if lines else []


def winner(rows: Sequence[StudyRow], config: StudyConfig) -> str | None:
    """The network of least mean onset RMSE over all severities and seeds, of at most `LARGEST` weights."""
    means = {}
    for method in networks(config):
        of_method = [row for row in rows if row.method == method]
        if of_method and of_method[0].parameters <= LARGEST:
            means[method] = np.mean([row.metrics["onset_rmse"] or 0.0 for row in of_method])
    return min(means, key=lambda method: means[method]) if means else None


def errors_figure(rows: Sequence[StudyRow]) -> Figure:
    """Onset RMSE by method, a panel for each severity: a dot at the mean of the seeds, a line from best to worst."""
    severities = sorted({row.severity for row in rows})
    methods = list(dict.fromkeys(row.method for row in rows))
    figure = Figure(figsize=(1.6 + 2.4 * len(severities), 1.4 + 0.3 * len(methods)), dpi=100, layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(severities), sharex=True, sharey=True))
    for panel, severity in zip(panels, severities, strict=True):
        for place, (method, of_method) in enumerate((m, _by_method(rows, severity).get(m, [])) for m in methods):
            values = [row.metrics["onset_rmse"] or 0.0 for row in of_method]
            if values:
                colour, mean = _COLOURS.get(method, _grey(place)), float(np.mean(values))
                panel.plot((min(values), max(values)), (place, place), color=colour, lw=2.0)
                panel.plot(mean, place, "o", color=colour, ms=6)
                panel.annotate(f"{mean:.2f}", (max(values), place), (7, 0), textcoords="offset points", va="center")
        panel.set(xscale="log", title=f"severity {severity}", xlabel="onset RMSE, s")
        panel.grid(axis="x", which="both", color="0.92")
        panel.xaxis.set_major_formatter("{x:g}")
    low, high = panels[0].get_xlim()
    panels[0].set_xlim(low * 0.8, high * 5.0)  # room for the figures
    panels[0].set_yticks(range(len(methods)), methods)
    panels[0].invert_yaxis()
    figure.suptitle("Onset error on flights that no method has seen; less is better", fontsize=11)
    return figure


def reliability_figure(rows: Sequence[StudyRow]) -> Figure:
    """Share of steps in reentry by the probability they were given, of the methods that give one."""
    severities = sorted({row.severity for row in rows})
    figure = Figure(figsize=(3.2 * len(severities), 3.6), dpi=100, layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(severities), sharey=True))
    for panel, severity in zip(panels, severities, strict=True):
        panel.plot([0, 1], [0, 1], color="black", lw=0.8, ls=":")
        for place, (method, of_method) in enumerate(_by_method(rows, severity).items()):
            if method in (AltitudeThreshold.name, DragThreshold.name):
                continue
            steps, predicted, observed = (
                np.array([row.reliability[name] for row in of_method], dtype=np.float64)
                for name in ("steps", "predicted", "observed")
            )
            filled = steps.sum(axis=0) > 0
            total = np.where(filled, steps.sum(axis=0), 1.0)
            given, came = (
                np.where(filled, np.nansum(steps * of, axis=0) / total, np.nan) for of in (predicted, observed)
            )
            colour = _COLOURS.get(method, _grey(place))
            panel.plot(given, came, marker="o", ms=3, lw=1, color=colour, label=method)
        panel.set_title(f"severity {severity}", fontsize=10)
        panel.set_xlabel("probability given")
    panels[0].set_ylabel("share in reentry")
    figure.legend(*panels[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=4)
    return figure


def _by_method(rows: Sequence[StudyRow], severity: int) -> dict[str, list[StudyRow]]:
    found: dict[str, list[StudyRow]] = {}
    for row in rows:
        if row.severity == severity:
            found.setdefault(row.method, []).append(row)
    return found


def _cell(name: str, form: str, values: Sequence[float | None]) -> str:
    known = [math.nan if value is None else value for value in values]
    if any(math.isnan(value) for value in known):
        return "-"
    if len(known) == 1:
        return form.format(known[0])
    worst = min(known) if name in _LOWEST_IS_WORST else max(known)
    return f"{form.format(np.mean(known))} / {form.format(worst)}"


def _grey(place: int) -> str:
    return ("tab:orange", "tab:brown", "tab:pink", "tab:olive", "tab:cyan", "tab:gray")[place % 6]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
