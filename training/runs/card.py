"""model_card.md: the network, its training data, its metrics by kind of flight, and its limits."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from reentry.simulation.trapezoid import LABEL_RULES, onset_rows
from reentry.tracks import ReadReport
from training.checkpoint import Checkpoint
from training.config import CONVOLUTION, GRU, LSTM
from training.data.samples import Counts
from training.evaluation.groups import Group, by_group
from training.evaluation.metrics import FALSE_ALARM_SECONDS, onset_errors
from training.evaluation.plots import errors_figure, reliability_figure, typical_step, write_files
from training.evaluation.predictions import predict
from training.evaluation.reliability import Reliability, reliability
from training.evaluation.report import cell

if TYPE_CHECKING:  # Lightning takes seconds to import, and an export reads the card without it
    from training.fit.fit import Trained

CARD_NAME: Final = "model_card.md"
ERRORS_NAME: Final = "onset_errors.png"
RELIABILITY_NAME: Final = "reliability.png"
FEW_TRACKS: Final = 20
"""Metrics of fewer tracks than this carry a caution."""

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
_GROUP_FIGURES: Final = {
    "onset_rmse": ("onset RMSE, s", "{:.3f}"),
    "onset_worst": ("worst, s", "{:.3f}"),
    "detection_delay": ("delay, s", "{:.3f}"),
    "false_alarms": ("false alarms in 1,000", "{:.1f}"),
    "f1": ("F1", "{:.4f}"),
    "brier": ("Brier", "{:.5f}"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFigures:
    """Facts about a training that the checkpoint itself does not hold."""

    data: Path
    origin: Mapping[str, Any] | None
    """Simulation settings that the file records; None if it records nothing, or describes another number of tracks."""
    origin_mismatch: bool
    """Whether the file records simulation settings for another number of tracks than it has."""
    rows: int
    """Number of rows in the data, including those set aside."""
    train_tracks: int
    set_aside: int
    """Number of unusable tracks."""
    label_rules: Mapping[str, int]
    """Number of tracks whose labels follow each rule of the public data; empty if no rule fits all tracks."""
    groups: list[Group]
    """Metrics of the validation tracks by kind of flight."""
    reliability: Reliability
    """Reliability on the validation tracks."""


def write_card(out: Path, trained: Trained, read: ReadReport, recorded: Mapping[str, Any] | None = None) -> None:
    """Write the card of a new network and its two plots into `out`.

    Args:
        out: folder of the checkpoint.
        trained: the new network and the tracks it was trained and validated on.
        read: report on the training data.
        recorded: simulation settings that the data records.
    """
    checkpoint = trained.checkpoint
    predictions = predict(checkpoint.model, trained.validation)
    # A file that was joined from several may keep the metadata of just one of them.
    tracks = read.tracks + sum(rows.track_id is not None for rows in read.set_aside)
    origin = recorded if recorded is None or recorded.get("tracks", tracks) == tracks else None
    figures = CardFigures(
        data=read.path,
        origin=origin,
        origin_mismatch=origin != recorded,
        rows=read.rows,
        train_tracks=len(trained.train),
        set_aside=len(read.set_aside),
        label_rules=_label_rules(Counts.of(trained.train), Counts.of(trained.validation)),
        groups=by_group(predictions, checkpoint.decision, origin),
        reliability=reliability(predictions),
    )
    errors = {"held out": onset_errors(predictions, checkpoint.decision)}
    write_files(
        out,
        {
            ERRORS_NAME: errors_figure(errors, typical_step(predictions), f"seed {checkpoint.seed}"),
            RELIABILITY_NAME: reliability_figure({"held out": figures.reliability}),
            CARD_NAME: markdown(checkpoint, figures),
        },
    )


def _label_rules(*splits: Counts) -> dict[str, int]:
    """Number of tracks whose labels follow each rule of the public data; empty if no rule fits all tracks."""
    steps = np.concatenate([split.steps for split in splits])
    onset = steps - np.concatenate([split.reentry for split in splits])
    matching = {rule: int((onset == onset_rows(steps, rule)).sum()) for rule in LABEL_RULES}
    return matching if max(matching.values()) == len(steps) else {}


def markdown(checkpoint: Checkpoint, figures: CardFigures | None = None) -> str:
    """Text of the card; without `figures`, it holds only what the checkpoint itself records."""
    lines = [
        "# Model card",
        "",
        "Marks the reentry phase of missile tracks. Its output at each measurement depends on that measurement and the",
        "earlier ones alone.",
        "",
        *_network(checkpoint),
        "",
        *_data(checkpoint, figures),
        "",
        "## On the tracks held out",
        "",
        "| | |",
        "| --- | ---: |",
        *(
            f"| {title} | {cell(form, checkpoint.metrics.get(name, math.nan))} |"
            for name, (title, form) in _FIGURES.items()
        ),
        "",
        "The weights were chosen by their loss on these tracks, so expect slightly worse metrics on others.",
        f"An alarm is false if it comes more than {FALSE_ALARM_SECONDS:g} s before the onset, or if there is no onset.",
        "",
    ]
    if figures is not None:
        lines += [*_groups(figures), "", *_plots(figures), ""]
    lines += [*_limits(figures), ""]
    return "\n".join(lines)


def _network(checkpoint: Checkpoint) -> list[str]:
    model = checkpoint.model_config
    weights = sum(weight.numel() for weight in checkpoint.model.parameters())
    return [
        "| | |",
        "| --- | --- |",
        f"| network | causal {_NETWORKS[model.kind]}, {model.layers} layer(s) of {model.hidden} units, "
        f"{weights:,} weights |",
        f"| features | {', '.join(model.features)} |",
        f"| reentry | begins at a probability of {checkpoint.decision.enter:g} and ends below "
        f"{checkpoint.decision.leave:g} |",
        f"| seed | {checkpoint.seed} |",
        f"| git revision | `{checkpoint.git_revision}` |",
    ]


def _data(checkpoint: Checkpoint, figures: CardFigures | None) -> list[str]:
    lines = ["## Data", "", "| | |", "| --- | --- |"]
    if figures is not None:
        lines.append(f"| data | {figures.data}, {figures.rows:,} rows |")
        lines.append(f"| source | {_origin(figures)} |")
        if figures.label_rules:
            counts = ", ".join(f"`{rule}` in {tracks:,}" for rule, tracks in figures.label_rules.items())
            lines.append(f"| labels follow the rule | {counts} of {max(figures.label_rules.values()):,} tracks |")
    if checkpoint.data_file_fingerprint:
        lines.append(f"| fingerprint of the file | `{checkpoint.data_file_fingerprint}` |")
    lines.append(f"| fingerprint of the tracks | `{checkpoint.data_fingerprint}` |")
    if figures is not None:
        lines.append(f"| trained on | {figures.train_tracks:,} tracks |")
    lines.append(f"| held out | {len(checkpoint.validation_tracks):,} tracks, whole |")
    if figures is not None:
        lines.append(f"| set aside | {figures.set_aside:,} tracks |")
    return lines


def _origin(figures: CardFigures) -> str:
    origin = figures.origin
    if origin is None:
        return "unknown: the file describes another number of tracks" if figures.origin_mismatch else "unknown"
    named = [f"{name} {origin[name]}" for name in ("profile", "severity", "seed", "label_rule") if name in origin]
    settings = origin.get("settings")
    return f"simulated, {', '.join(named)}" + (f", settings `{json.dumps(settings)}`" if settings else "")


def _groups(figures: CardFigures) -> list[str]:
    return [
        "### By kind of flight",
        "",
        "Range is the great circle from the first measurement to the last. "
        f"Metrics of fewer than {FEW_TRACKS} tracks are uncertain.",
        "",
        "| | | tracks | " + " | ".join(title for title, _ in _GROUP_FIGURES.values()) + " |",
        "| --- | --- | ---: |" + " ---: |" * len(_GROUP_FIGURES),
        *(
            f"| {group.by} | {group.name} | {group.metrics.tracks:,} | "
            + " | ".join(cell(form, group.metrics.as_dict()[name]) for name, (_, form) in _GROUP_FIGURES.items())
            + " |"
            for group in figures.groups
        ),
    ]


def _plots(figures: CardFigures) -> list[str]:
    return [
        f"![Onset errors of the tracks held out]({ERRORS_NAME})",
        "",
        f"![Observed share of steps in reentry over predicted probability]({RELIABILITY_NAME})",
        "",
        f"The expected calibration error is {figures.reliability.error:.4f}.",
    ]


def _limits(figures: CardFigures | None) -> list[str]:
    lines = [
        "## Limits",
        "",
        "- The metrics hold for tracks like those the network was trained on, seen from their start.",
        "- For other flights, sensors or noise, measure the network with `reentry evaluate`.",
    ]
    if figures is None:
        return lines
    if figures.origin is not None:
        lines.append("- Trained on simulated flights: it has never seen what the simulator leaves out.")
    few = [f"{group.by} {group.name}" for group in figures.groups if group.metrics.tracks < FEW_TRACKS]
    if few:
        lines.append(f"- Validated on fewer than {FEW_TRACKS} tracks: {'; '.join(few)}.")
    return lines
