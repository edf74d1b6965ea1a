"""Report of a study: study.md with its table, a plot of the onset errors, and a plot of the reliability."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.figure import Figure

from training.evaluation.plots import write_files
from training.models.baselines import THRESHOLD_TRACKS, AltitudeThreshold, BoostedTrees, DragThreshold
from training.studies.orbit_baselines import OrbitFilterAlone
from training.studies.study import StudyRow
from training.studies.study_config import KNOWN_PATH, LSTM_NAME, StudyConfig

REPORT_NAME: Final = "study.md"

_OVER_SEEDS: Final = ", mean over them with the lowest and highest onset RMSE, and the worst error of all"

_COLUMNS: Final = {
    "onset_rmse": ("onset RMSE, s", "{:.2f}"),
    "onset_worst": ("worst, s", "{:.0f}"),
    "f1": ("F1", "{:.4f}"),
    "detection_delay": ("delay, s", "{:.2f}"),
    "false_alarms": ("false alarms per 1,000", "{:.1f}"),
    "brier": ("Brier", "{:.5f}"),
}

_COLOURS: Final = {
    LSTM_NAME: "tab:red",
    OrbitFilterAlone.name: "tab:orange",
    BoostedTrees.name: "tab:green",
    DragThreshold.name: "tab:blue",
    AltitudeThreshold.name: "tab:purple",
    KNOWN_PATH: "black",
}


def write_report(rows: Sequence[StudyRow], config: StudyConfig, out: Path, command: str) -> list[Path]:
    """Write study.md and two plots into `out` and return their paths."""
    return write_files(
        out,
        {
            REPORT_NAME: markdown(rows, config, command),
            "study.png": errors_figure(rows),
            "study_reliability.png": reliability_figure(rows),
        },
    )


def markdown(rows: Sequence[StudyRow], config: StudyConfig, command: str) -> str:
    """Text of study.md. With several seeds, a cell of the table holds the mean and, for the RMSE, the range."""
    seeds = sorted({row.seed for row in rows})
    flights = config.training_flights * len(config.severities)
    lines = [
        "# Study on ballistic flights",
        "",
        f"`{command}`: {len(seeds)} seed{'s' * (len(seeds) > 1)}"
        f"{_OVER_SEEDS if len(seeds) > 1 else ''}; each trains on {flights:,} flights, "
        f"{config.training_flights:,} of each severity, all severities together "
        f"(thresholds: each severity separately, on about {THRESHOLD_TRACKS}), "
        f"and is scored on {config.unseen_flights:,} flights of each severity that no method has seen.",
        "A track without an onset counts as if reentry began one step after its end. An alarm is false if it comes "
        "more than 5 s before the onset. Time per step is the processor time of the method alone, without computing "
        "the features, flight by flight.",
        f"The {KNOWN_PATH} is not a method. It estimates what the noise allows, to first order in the drag: Bayes' "
        "rule, given the true path and the bias, clock and noise of each sensor, so that only the ballistic "
        "coefficient is unknown.",
        "",
        "| severity | method | " + " | ".join(title for title, _ in _COLUMNS.values()) + " | size | µs a step |",
        "| ---: | --- |" + " ---: |" * (len(_COLUMNS) + 2),
    ]
    for severity in sorted({row.severity for row in rows}):
        for method, of_method in _by_method(rows, severity).items():
            cells = [_cell(name, [row.metrics[name] for row in of_method]) for name in _COLUMNS]
            size = f"{np.mean([row.parameters for row in of_method]):,.0f}"
            times = [row.step_microseconds for row in of_method if row.step_microseconds is not None]
            spent = f"{np.median(times):.2g}" if times else "-"
            lines.append(f"| {severity} | {method} | " + " | ".join([*cells, size, spent]) + " |")
    lines += ["", *comparison(rows), "", *refinement(rows), ""]
    return "\n".join(lines)


def comparison(rows: Sequence[StudyRow]) -> list[str]:
    """Onset RMSE of the LSTM and of the other methods, as a Markdown line for each severity."""
    lines = []
    for severity in sorted({row.severity for row in rows}):
        means = {
            method: float(np.mean([row.metrics["onset_rmse"] or 0.0 for row in of_method]))
            for method, of_method in _by_method(rows, severity).items()
        }
        lstm = means.get(LSTM_NAME)
        if lstm:
            others = ", ".join(
                f"{name} {mean:.2f} s ({mean / lstm:.1f} times)" for name, mean in means.items() if name != LSTM_NAME
            )
            lines.append(f"- severity {severity}: LSTM {lstm:.2f} s; {others}")
    return ["Onset RMSE compared with that of the LSTM:", "", *lines] if lines else []


def refinement(rows: Sequence[StudyRow]) -> list[str]:
    """Lines of a Markdown table of the refined onsets, with the mean over the seeds; empty without any."""
    refined = [row for row in rows if row.refined]
    if not refined:
        return []
    times = [f"{errors['hindsight']:g} s" for errors in refined[0].refined]
    lines = [
        "Onset RMSE, s, of the alarm and of the refined onset some time after it, and the spread of (refined - true "
        "onset) / (its predicted standard deviation), which is 1 if the prediction is right:",
        "",
        f"| severity | method | alarm | {' | '.join(times)} | {' | '.join(f'spread, {time}' for time in times)} |",
        "| ---: | --- |" + " ---: |" * (1 + 2 * len(times)),
    ]
    for severity in sorted({row.severity for row in refined}):
        for method, of_method in _by_method(refined, severity).items():
            values = [[row.metrics["onset_rmse"] for row in of_method]]
            for name in ("onset_rmse", "spread"):
                values += [[row.refined[k][name] for row in of_method] for k in range(len(times))]
            lines.append(f"| {severity} | {method} | " + " | ".join(_mean("{:.2f}", each) for each in values) + " |")
    return lines


def errors_figure(rows: Sequence[StudyRow]) -> Figure:
    """Onset RMSE by method, one panel for each severity: a dot at the mean of the seeds, a line from best to worst."""
    severities = sorted({row.severity for row in rows})
    methods = list(dict.fromkeys(row.method for row in rows))
    figure = Figure(figsize=(1.6 + 2.4 * len(severities), 1.4 + 0.3 * len(methods)), dpi=100, layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(severities), sharex=True, sharey=True))
    for panel, severity in zip(panels, severities, strict=True):
        for place, (method, of_method) in enumerate((m, _by_method(rows, severity).get(m, [])) for m in methods):
            values = [row.metrics["onset_rmse"] or 0.0 for row in of_method]
            if values:
                colour, mean = _colour(method, place), float(np.mean(values))
                panel.plot((min(values), max(values)), (place, place), color=colour, lw=2.0)
                panel.plot(mean, place, "o", color=colour, ms=6)
                panel.annotate(f"{mean:.2f}", (max(values), place), (7, 0), textcoords="offset points", va="center")
        panel.set(xscale="log", title=f"severity {severity}", xlabel="onset RMSE, s")
        panel.grid(axis="x", which="both", color="0.92")
        panel.xaxis.set_major_formatter("{x:g}")
    low, high = panels[0].get_xlim()
    panels[0].set_xlim(low * 0.8, high * 5.0)  # room for the numbers
    panels[0].set_yticks(range(len(methods)), methods)
    panels[0].invert_yaxis()
    figure.suptitle("Onset error on flights that no method has seen; lower is better", fontsize=11)
    return figure


def reliability_figure(rows: Sequence[StudyRow]) -> Figure:
    """Observed share of steps in reentry over predicted probability, for the methods that predict probabilities."""
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
            pooled = [
                np.where(filled, np.nansum(steps * values, axis=0) / total, np.nan) for values in (predicted, observed)
            ]
            panel.plot(*pooled, marker="o", ms=3, lw=1, color=_colour(method, place), label=method)
        panel.set_title(f"severity {severity}", fontsize=10)
        panel.set_xlabel("predicted probability")
    panels[0].set_ylabel("share in reentry")
    figure.legend(*panels[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=4)
    return figure


def _by_method(rows: Sequence[StudyRow], severity: int) -> dict[str, list[StudyRow]]:
    of_methods: dict[str, list[StudyRow]] = {}
    for row in rows:
        if row.severity == severity:
            of_methods.setdefault(row.method, []).append(row)
    return of_methods


def _cell(name: str, values: Sequence[float | None]) -> str:
    """Mean over the seeds, for the RMSE with its range, for the worst error the largest; a dash if one is missing."""
    form, known = _COLUMNS[name][1], [value for value in values if value is not None]
    if name == "onset_worst" and len(known) == len(values):
        return form.format(max(known))
    if name == "onset_rmse" and len(known) == len(values) > 1:
        return f"{form.format(np.mean(known))} ({form.format(min(known))} to {form.format(max(known))})"
    return _mean(form, values)


def _mean(form: str, values: Sequence[float | None]) -> str:
    """Mean over the seeds; a dash if a value is missing."""
    known = [value for value in values if value is not None]
    return form.format(np.mean(known)) if len(known) == len(values) else "-"


def _colour(method: str, place: int) -> str:
    others = ("tab:brown", "tab:pink", "tab:olive", "tab:cyan", "tab:gray")
    return _COLOURS.get(method, others[place % len(others)])
