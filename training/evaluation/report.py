"""The files of an evaluation: evaluation.json, evaluation.md and three plots."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Final

from training.evaluation.evaluate import NETWORK, Evaluation
from training.evaluation.metrics import Prediction, onset_errors, without_nan
from training.evaluation.plots import errors_figure, reliability_figure, track_figure, typical_step, write_files
from training.evaluation.reliability import reliability

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
    """Write the five files into `out` and return their paths.

    Raises:
        InputError: `out` is not writable, or the disk is full.
    """
    first, decision = evaluation.runs[0].predictions, evaluation.checkpoint.decision
    seeds = f"{len(evaluation.runs)} seeds" if len(evaluation.runs) > 1 else f"seed {evaluation.runs[0].seed}"

    def pooled(method: str) -> Iterator[Prediction]:
        return chain.from_iterable(run.predictions[method] for run in evaluation.runs)

    errors = {method: onset_errors(pooled(method), decision) for method in first}
    return write_files(
        out,
        {
            "evaluation.json": json.dumps(as_dict(evaluation), indent=2) + "\n",
            "evaluation.md": markdown(evaluation),
            "track.png": track_figure(first[NETWORK], decision),
            "onset_errors.png": errors_figure(errors, typical_step(pooled(NETWORK)), seeds),
            "reliability.png": reliability_figure({method: reliability(pooled(method)) for method in first}),
        },
    )


def as_dict(evaluation: Evaluation) -> dict[str, Any]:
    """Content of evaluation.json; a metric that is NaN becomes null."""
    content: dict[str, Any] = {
        "checkpoint": str(evaluation.checkpoint_path),
        "git_revision": evaluation.checkpoint.git_revision,
        "data": str(evaluation.data.path),
        "data_fingerprint": evaluation.checkpoint.data_fingerprint if evaluation.held_out else None,
        "held_out_tracks_only": evaluation.held_out,
        "tracks_that_trained_it": evaluation.trained_on,
        "tracks_scored": evaluation.scored,
        "warning": evaluation.warning,
        "tracks_set_aside": len(evaluation.data.set_aside),
        "runs": [
            {
                "seed": run.seed,
                "baselines_fitted_on": run.fitted_on,
                "metrics": {method: without_nan(m.as_dict()) for method, m in run.metrics.items()},
            }
            for run in evaluation.runs
        ],
    }
    content["summary"] = {
        method: {name: without_nan(values) for name, values in metrics.items()}
        for method, metrics in evaluation.summary().items()
    }
    return content


def markdown(evaluation: Evaluation) -> str:
    """Markdown table with a row for each method. With several seeds, a cell holds the mean and the worst value."""
    several = len(evaluation.runs) > 1
    lines = [
        "# Evaluation",
        "",
        f"Checkpoint `{evaluation.checkpoint_path}`, data `{evaluation.data.path}`: {_scored_tracks(evaluation)}.",
        f"Seeds {', '.join(str(run.seed) for run in evaluation.runs)}, each with its own split; mean / worst."
        if several
        else f"Seed {evaluation.runs[0].seed}.",
        "A track without an onset counts as if reentry began one step after its end, in labels and prediction alike.",
    ]
    if not evaluation.held_out:
        lines.append("The baselines need the training file, so they are left out.")
    elif evaluation.runs[0].fitted_on < evaluation.trained_on:
        lines.append(
            f"The baselines were fitted on {evaluation.runs[0].fitted_on} of the training tracks, evenly chosen."
        )
    lines += [
        "",
        "| | " + " | ".join(title for title, _ in _COLUMNS.values()) + " |",
        "| --- |" + " ---: |" * len(_COLUMNS),
    ]
    for method, metrics in evaluation.summary().items():
        cells = []
        for name, (_, form) in _COLUMNS.items():
            mean, worst = (cell(form, metrics[name][over_runs]) for over_runs in ("mean", "worst"))
            cells.append(f"{mean} / {worst}" if several else mean)
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def cell(form: str, value: float) -> str:
    """Formatted metric; a dash for NaN."""
    return "-" if math.isnan(value) else form.format(value)


def _scored_tracks(evaluation: Evaluation) -> str:
    if evaluation.held_out:
        return f"the {evaluation.scored} tracks held out from training"
    if evaluation.scored < evaluation.data.tracks:
        return f"the {evaluation.scored} tracks that it was not trained on"
    return f"all {evaluation.scored} tracks" + (", which it was trained on" if evaluation.trained_on else "")
