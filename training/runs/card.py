"""model_card.md: what a network is, what it was trained on, how good it is on which flights, and what it is not for."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from training.checkpoint import Checkpoint
from training.config import CONVOLUTION, GRU, LSTM
from training.evaluation.groups import Group
from training.evaluation.metrics import FALSE_ALARM_SECONDS, Reliability

CARD_NAME: Final = "model_card.md"
ERRORS_NAME: Final = "onset_errors.png"
RELIABILITY_NAME: Final = "reliability.png"

_NETWORKS: Final = {LSTM: "LSTM", GRU: "GRU", CONVOLUTION: "convolution"}
_FIGURES: Final = {
    "onset_rmse": ("onset RMSE, s", "{:.3f}"),
    "onset_worst": ("worst onset error, s", "{:.3f}"),
    "onset_exact": ("onsets on the exact step", "{:.1%}"),
    "missed_onsets": ("missed onsets", "{:.0f}"),
    "false_onsets": ("false onsets", "{:.0f}"),
    "detection_delay": ("detection delay, s", "{:.3f}"),
    "false_alarms": ("false alarms in 1,000 tracks", "{:.1f}"),
    "f1": ("F1 of the steps", "{:.4f}"),
    "brier": ("Brier score of the steps", "{:.5f}"),
}
_OF_GROUPS: Final = {
    "onset_rmse": ("onset RMSE, s", "{:.3f}"),
    "onset_worst": ("worst, s", "{:.3f}"),
    "detection_delay": ("delay, s", "{:.3f}"),
    "false_alarms": ("false alarms in 1,000", "{:.1f}"),
    "f1": ("F1", "{:.4f}"),
    "brier": ("Brier", "{:.5f}"),
}
FEW_TRACKS: Final = 20
"""Fewer say little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a training knows beyond its checkpoint."""

    data: Path
    origin: Mapping[str, Any] | None
    """Of the file, where it says so of as many tracks as it has."""
    origin_of_others: bool
    """Whether it says where it is from, but of another number of tracks."""
    rows: int
    """Of the file, those set aside among them."""
    train_tracks: int
    set_aside: int
    """Tracks that could not be used."""
    label_rules: Mapping[str, int]
    """Number of tracks whose labels follow each rule of the public data; empty where no rule fits them all."""
    groups: list[Group]
    """Of the tracks held out."""
    reliability: Reliability
    """Of the same."""


def markdown(checkpoint: Checkpoint, evidence: Evidence | None = None) -> str:
    """The card of a checkpoint; without evidence, what the checkpoint itself knows."""
    lines = [
        "# Model card",
        "",
        "Marks the reentry phase of missile tracks, at each measurement from that one and the ones before it.",
        "",
        *_network(checkpoint),
        "",
        *_data(checkpoint, evidence),
        "",
        "## On the tracks held out",
        "",
        "| | |",
        "| --- | ---: |",
        *(
            f"| {title} | {_cell(form, checkpoint.metrics.get(name, math.nan))} |"
            for name, (title, form) in _FIGURES.items()
        ),
        "",
        "The epoch whose weights were kept was chosen on these tracks too, so on others expect a little worse.",
        f"An alarm is false where it comes more than {FALSE_ALARM_SECONDS:g} s before the onset, or without one.",
        "",
    ]
    if evidence is not None:
        lines += [*_groups(evidence), "", *_plots(evidence), ""]
    lines += [*_limits(evidence), ""]
    return "\n".join(lines)


def _network(checkpoint: Checkpoint) -> list[str]:
    model = checkpoint.model_config
    weights = sum(weight.numel() for weight in checkpoint.model.parameters())
    return [
        "| | |",
        "| --- | --- |",
        f"| network | causal {_NETWORKS[model.kind]}, {model.layers} layer(s) of {model.hidden} units, "
        f"{weights:,} weights |",
        f"| looks at | {', '.join(model.features)} |",
        f"| reentry | from a probability of {checkpoint.decision.enter:g}, until it is below "
        f"{checkpoint.decision.leave:g} |",
        f"| seed | {checkpoint.seed} |",
        f"| program | `{checkpoint.git_revision}` |",
    ]


def _data(checkpoint: Checkpoint, evidence: Evidence | None) -> list[str]:
    lines = ["## Data", "", "| | |", "| --- | --- |"]
    if evidence is not None:
        lines.append(f"| file | {evidence.data}, {evidence.rows:,} rows |")
        lines.append(f"| from | {_origin(evidence)} |")
        if evidence.label_rules:
            counts = ", ".join(f"`{rule}` in {tracks:,}" for rule, tracks in evidence.label_rules.items())
            lines.append(f"| labels follow the rule | {counts} of {max(evidence.label_rules.values()):,} tracks |")
    if checkpoint.data_file_fingerprint:
        lines.append(f"| file's fingerprint | `{checkpoint.data_file_fingerprint}` |")
    lines.append(f"| tracks' fingerprint | `{checkpoint.data_fingerprint}` |")
    if evidence is not None:
        lines.append(f"| trained on | {evidence.train_tracks:,} tracks |")
    lines.append(f"| held out | {len(checkpoint.validation_tracks):,} tracks, whole |")
    if evidence is not None:
        lines.append(f"| set aside | {evidence.set_aside:,} tracks |")
    return lines


def _origin(evidence: Evidence) -> str:
    origin = evidence.origin
    if origin is None:
        return "the file says so of another number of tracks" if evidence.origin_of_others else "the file does not say"
    named = [f"{name} {origin[name]}" for name in ("profile", "severity", "seed", "label_rule") if name in origin]
    settings = origin.get("settings")
    return f"simulated, {', '.join(named)}" + (f", settings `{json.dumps(settings)}`" if settings else "")


def _groups(evidence: Evidence) -> list[str]:
    return [
        "### By kind of flight",
        "",
        "Range is the great circle from the first measurement to the last. "
        f"A group of fewer than {FEW_TRACKS} tracks says little.",
        "",
        "| | | tracks | " + " | ".join(title for title, _ in _OF_GROUPS.values()) + " |",
        "| --- | --- | ---: |" + " ---: |" * len(_OF_GROUPS),
        *(
            f"| {group.by} | {group.name} | {group.metrics.tracks:,} | "
            + " | ".join(_cell(form, group.metrics.as_dict()[name]) for name, (_, form) in _OF_GROUPS.items())
            + " |"
            for group in evidence.groups
        ),
    ]


def _plots(evidence: Evidence) -> list[str]:
    return [
        f"![Onset errors of the tracks held out]({ERRORS_NAME})",
        "",
        f"![Share of steps in reentry by the probability they were given]({RELIABILITY_NAME})",
        "",
        f"Probability and share differ by {evidence.reliability.error:.4f} on average over the steps.",
    ]


def _limits(evidence: Evidence | None) -> list[str]:
    lines = [
        "## Limits",
        "",
        "- The figures hold for tracks like those it was trained on, seen from their start.",
        "- Of another kind of flight, sensor or noise they say nothing: `reentry evaluate` does.",
    ]
    if evidence is None:
        return lines
    if evidence.origin is not None:
        lines.append("- Trained on simulated flights: what the simulator leaves out, it has never seen.")
    few = [f"{group.by} {group.name}" for group in evidence.groups if group.metrics.tracks < FEW_TRACKS]
    if few:
        lines.append(f"- Held out with fewer than {FEW_TRACKS} tracks: {'; '.join(few)}.")
    return lines


def _cell(form: str, value: float) -> str:
    return "-" if math.isnan(value) else form.format(value)
