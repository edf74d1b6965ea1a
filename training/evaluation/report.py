"""An evaluation as files: evaluation.json, evaluation.md and three plots."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from reentry.runtime.files import whole_file
from training.data.stored import LazyPredictions
from training.evaluation.evaluate import NETWORK, Evaluation
from training.evaluation.metrics import Prediction, without_nan
from training.evaluation.parts import reliability_in_parts
from training.evaluation.plots import errors_figure, reliability_figure, track_figure

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
    """Write the five files into `out` and give their paths.

    Raises:
        InputError: the place cannot be written to, or is full.
    """
    texts = {"evaluation.json": json.dumps(as_dict(evaluation), indent=2) + "\n", "evaluation.md": markdown(evaluation)}
    for name, text in texts.items():
        with whole_file(out / name) as part:
            part.write_text(text, encoding="utf-8")
    first, decision = evaluation.runs[0].predictions, evaluation.checkpoint.decision
    pooled = {method: _Joined([run.predictions[method] for run in evaluation.runs]) for method in first}
    seeds = f"{len(evaluation.runs)} seeds" if len(evaluation.runs) > 1 else f"seed {evaluation.runs[0].seed}"
    figures = {
        "track.png": track_figure(first[NETWORK], decision),
        "onset_errors.png": errors_figure(pooled, decision, seeds),
        "reliability.png": reliability_figure({method: reliability_in_parts(of) for method, of in pooled.items()}),
    }
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
        method: {name: without_nan(of) for name, of in figures.items()}
        for method, figures in evaluation.summary().items()
    }
    return content


def markdown(evaluation: Evaluation) -> str:
    """The table, methods by rows; over several seeds a cell holds the mean and the worst."""
    several = len(evaluation.runs) > 1
    lines = [
        "# Evaluation",
        "",
        f"Checkpoint `{evaluation.checkpoint_path}`, data `{evaluation.data.path}`: {_what(evaluation)}.",
        f"Seeds {', '.join(str(run.seed) for run in evaluation.runs)}, each with its own split; mean / worst."
        if several
        else f"Seed {evaluation.runs[0].seed}.",
        "A track without onset counts as if reentry began one step after its end, in truth and prediction alike.",
    ]
    if not evaluation.held_out:
        lines.append("The baselines need the training file, so they are not in the table.")
    elif evaluation.runs[0].fitted_on < evaluation.trained_on:
        lines.append(
            f"The baselines were fitted on {evaluation.runs[0].fitted_on} of the training tracks, evenly chosen."
        )
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


class _Joined(LazyPredictions):
    """Several sequences one after the other, none of them copied."""

    def __init__(self, sequences: Sequence[Sequence[Prediction]]) -> None:
        self._sequences = sequences

    def __len__(self) -> int:
        return sum(map(len, self._sequences))

    def at(self, index: int) -> Prediction:
        """Of the sequence that holds it."""
        for sequence in self._sequences:
            if index < len(sequence):
                return sequence[index]
            index -= len(sequence)
        raise IndexError


def _cell(form: str, value: float) -> str:
    return "-" if math.isnan(value) else form.format(value)


def _what(evaluation: Evaluation) -> str:
    """Which tracks the figures are of."""
    if evaluation.held_out:
        return f"the {evaluation.scored} tracks held out from training"
    if evaluation.scored < evaluation.data.tracks:
        return f"the {evaluation.scored} tracks that did not train it"
    return f"all {evaluation.scored} tracks" + (", which trained it" if evaluation.trained_on else "")
