"""model_card.md: what a network is, what it was trained on, how good it is, and what it is not for."""

from __future__ import annotations

import math
from typing import Final

from training.checkpoint import Checkpoint

CARD_NAME: Final = "model_card.md"

_FIGURES: Final = {
    "onset_rmse": ("onset RMSE, s", "{:.3f}"),
    "onset_worst": ("worst onset error, s", "{:.3f}"),
    "onset_exact": ("onsets on the exact step", "{:.1%}"),
    "missed_onsets": ("missed onsets", "{:.0f}"),
    "false_onsets": ("false onsets", "{:.0f}"),
    "f1": ("F1 of the steps", "{:.4f}"),
}


def markdown(checkpoint: Checkpoint) -> str:
    """The card of a checkpoint."""
    model = checkpoint.model_config
    weights = sum(weight.numel() for weight in checkpoint.model.parameters())
    rows = []
    for name, (title, form) in _FIGURES.items():
        value = checkpoint.metrics.get(name, math.nan)
        rows.append(f"| {title} | {'-' if math.isnan(value) else form.format(value)} |")
    return "\n".join(
        [
            "# Model card",
            "",
            "Marks the reentry phase of missile tracks, at each measurement from that one and the ones before it.",
            "",
            "| | |",
            "| --- | --- |",
            f"| network | causal LSTM, {model.layers} layer(s) of {model.hidden} units, {weights:,} weights |",
            f"| looks at | {', '.join(model.features)} |",
            f"| reentry | from a probability of {checkpoint.decision.enter:g}, until it is below "
            f"{checkpoint.decision.leave:g} |",
            f"| trained on | labelled tracks of fingerprint `{checkpoint.data_fingerprint}` |",
            f"| held out | {len(checkpoint.validation_tracks)} tracks, whole |",
            f"| seed | {checkpoint.seed} |",
            f"| program | `{checkpoint.git_revision}` |",
            "",
            "## On the tracks held out",
            "",
            "| | |",
            "| --- | ---: |",
            *rows,
            "",
            "## Limits",
            "",
            "- The figures hold for tracks like those it was trained on, seen from their start.",
            "- Of another kind of flight, sensor or noise they say nothing: `reentry evaluate` does.",
            "",
        ]
    )
