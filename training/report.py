"""An evaluation as files: evaluation.json, evaluation.md and two plots."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure

from reentry.decision import NO_ONSET, onset_of, phase_of
from reentry.files import whole_file
from reentry.schema import ALTITUDE, MEASUREMENT_COLUMNS
from training.evaluate import NETWORK, Evaluation
from training.metrics import onset_errors, without_nan

_COLUMNS: Final = {
    "onset_rmse": ("onset RMSE, s", "{:.3f}"),
    "onset_mae": ("MAE, s", "{:.3f}"),
    "onset_worst": ("worst, s", "{:.3f}"),
    "onset_exact": ("exact step", "{:.1%}"),
    "onset_within_step": ("within one step", "{:.1%}"),
    "missed_onsets": ("missed", "{:.0f}"),
    "false_onsets": ("false", "{:.0f}"),
    "detection_delay": ("delay, s", "{:.3f}"),
    "false_alarms": ("false alarms in 1,000", "{:.1f}"),
    "accuracy": ("accuracy", "{:.5f}"),
    "precision": ("precision", "{:.5f}"),
    "recall": ("recall", "{:.5f}"),
    "f1": ("F1", "{:.5f}"),
    "roc_auc": ("ROC AUC", "{:.5f}"),
    "brier": ("Brier", "{:.5f}"),
}


def write_report(evaluation: Evaluation, out: Path) -> list[Path]:
    """Write the four files into `out` and give their paths."""
    texts = {"evaluation.json": json.dumps(as_dict(evaluation), indent=2) + "\n", "evaluation.md": markdown(evaluation)}
    for name, text in texts.items():
        with whole_file(out / name) as part:
            part.write_text(text, encoding="utf-8")
    figures = {"track.png": _track_figure(evaluation), "onset_errors.png": _errors_figure(evaluation)}
    for name, figure in figures.items():
        with whole_file(out / name) as part:
            figure.savefig(part, format="png")
    return [out / name for name in (*texts, *figures)]


def as_dict(evaluation: Evaluation) -> dict[str, Any]:
    """For JSON; a figure without cases is null."""
    content: dict[str, Any] = {
        "checkpoint": str(evaluation.checkpoint_path),
        "git_revision": evaluation.checkpoint.git_revision,
        "data": str(evaluation.data.path),
        "data_fingerprint": evaluation.checkpoint.data_fingerprint if evaluation.held_out else None,
        "held_out_tracks_only": evaluation.held_out,
        "tracks_set_aside": len(evaluation.data.set_aside),
        "runs": [
            {"seed": run.seed, "metrics": {method: without_nan(m.as_dict()) for method, m in run.metrics.items()}}
            for run in evaluation.runs
        ],
    }
    content["summary"] = {
        method: {name: without_nan(of) for name, of in figures.items()}
        for method, figures in evaluation.summary().items()
    }
    return content


def markdown(evaluation: Evaluation) -> str:
    """The table, methods by rows; over several seeds a cell holds the mean and the worst."""
    several = len(evaluation.runs) > 1
    tracks = [run.metrics[NETWORK].tracks for run in evaluation.runs]
    what = f"the {tracks[0]} tracks held out from training" if evaluation.held_out else f"all {tracks[0]} tracks"
    lines = [
        "# Evaluation",
        "",
        f"Checkpoint `{evaluation.checkpoint_path}`, data `{evaluation.data.path}`: {what}.",
        f"Seeds {', '.join(str(run.seed) for run in evaluation.runs)}, each with its own split; mean / worst."
        if several
        else f"Seed {evaluation.runs[0].seed}.",
        "A track without onset counts as if reentry began one step after its end, in truth and prediction alike.",
    ]
    if not evaluation.held_out:
        lines.append("The baselines need the training file, so they are not in the table.")
    lines += [
        "",
        "| | " + " | ".join(title for title, _ in _COLUMNS.values()) + " |",
        "| --- |" + " ---: |" * len(_COLUMNS),
    ]
    for method, figures in evaluation.summary().items():
        cells = []
        for name, (_, form) in _COLUMNS.items():
            mean, worst = (_cell(form, figures[name][of]) for of in ("mean", "worst"))
            cells.append(f"{mean} / {worst}" if several else mean)
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(form: str, value: float) -> str:
    return "-" if math.isnan(value) else form.format(value)


def _track_figure(evaluation: Evaluation) -> Figure:
    """The track of the first run on which the network errs most."""
    run, decision = evaluation.runs[0], evaluation.checkpoint.decision
    errors = onset_errors(run.predictions[NETWORK], decision)
    worst = int(np.abs(errors).argmax())
    prediction = run.predictions[NETWORK][worst]
    track = prediction.track
    truth, phase = track.reentry_phase, phase_of(prediction.probability, decision)
    assert truth is not None, "scored tracks are labelled"
    seconds = track.timestamp - track.timestamp[0]

    figure = Figure(figsize=(9, 6), dpi=100, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    above.plot(seconds, track.measurements[:, MEASUREMENT_COLUMNS.index(ALTITUDE.name)] / 1e3, color="black", lw=1.2)
    above.set_ylabel("altitude, km")
    above.set_title(
        f"Track {track.track_id}, the largest onset error of {len(errors)} tracks: {errors[worst]:+.3f} s "
        "(predicted - true)",
        fontsize=11,
    )
    for steps, label, colour, style in (
        (truth, "true onset", "tab:blue", "-"),
        (phase, "predicted onset", "tab:red", "--"),
    ):
        onset = int(onset_of(steps))
        if onset != NO_ONSET:
            above.axvline(seconds[onset], color=colour, ls=style, lw=1.5, label=f"{label}: {seconds[onset]:.1f} s")
        else:
            above.plot([], [], color=colour, ls=style, label=f"{label}: none")
    above.legend(loc="upper left")
    below.fill_between(seconds, truth, step="post", color="tab:blue", alpha=0.2, label="true phase")
    below.step(seconds, phase, where="post", color="tab:red", ls="--", lw=1.2, label="predicted phase")
    below.plot(seconds, prediction.probability, color="tab:orange", lw=1.5, label="predicted probability")
    below.axhline(decision.enter, color="grey", lw=0.8, ls=":", label=f"enter at {decision.enter:g}")
    below.set(xlabel="time since the first measurement, s", ylabel="reentry, 0 to 1", ylim=(-0.05, 1.05))
    below.legend(loc="upper left")
    return figure


def _errors_figure(evaluation: Evaluation) -> Figure:
    """Onset errors of every run, one panel a method, on one axis of time; bins are one step wide."""
    decision = evaluation.checkpoint.decision
    methods = list(evaluation.runs[0].predictions)
    errors = {
        method: np.concatenate([onset_errors(run.predictions[method], decision) for run in evaluation.runs])
        for method in methods
    }
    step = float(
        np.median(np.concatenate([np.diff(p.track.timestamp) for p in evaluation.runs[0].predictions[NETWORK]]))
    )
    widest = max(float(np.abs(values).max()) for values in errors.values())
    reach = (min(round(widest / step), 100) + 1.5) * step
    bins = np.arange(-reach, reach + step / 2, step)
    figure = Figure(figsize=(9, 1.2 + 1.7 * len(methods)), dpi=100, layout="constrained")
    panels = np.atleast_1d(figure.subplots(len(methods), 1, sharex=True))
    for panel, method in zip(panels, methods, strict=True):
        values = errors[method]
        shown = np.clip(values, bins[0], bins[-1])
        panel.hist(shown, bins=list(bins), color="tab:red" if method == NETWORK else "tab:grey", edgecolor="white")
        beyond = int(np.sum(np.abs(values) > reach))
        panel.set_title(
            f"{method}: RMSE {np.sqrt(np.mean(values**2)):.3f} s, worst {np.abs(values).max():.3f} s"
            + (f", {beyond} beyond the axis in the outer bins" if beyond else ""),
            fontsize=10,
        )
        panel.axvline(0.0, color="black", lw=0.6)
        panel.set_ylabel("tracks")
        panel.yaxis.get_major_locator().set_params(integer=True)
    panels[-1].set_xlabel(f"onset error, predicted - true, s (bins of {step:g} s)")
    seeds = f"{len(evaluation.runs)} seeds" if len(evaluation.runs) > 1 else f"seed {evaluation.runs[0].seed}"
    figure.suptitle(f"Onset errors of {len(errors[NETWORK])} scored tracks, {seeds}", fontsize=11)
    return figure
