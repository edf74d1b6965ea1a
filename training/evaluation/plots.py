"""Plots of predictions: the track with the largest error, the onset errors, the reliability.

Shapes: T steps, K silences.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib import rcParams
from matplotlib.figure import Figure

from reentry.decision import NO_ONSET, DecisionConfig, onset_of, phase_of
from reentry.runtime.files import whole_file
from reentry.schema import ALTITUDE, MEASUREMENT_COLUMNS
from training.evaluation.metrics import Prediction, labels_of, onset_errors
from training.evaluation.reliability import Reliability

FARTHEST_STEPS: Final = 100
"""Number of steps beyond which onset errors are shown in the outermost bins."""
BINS_EACH_SIDE: Final = 40
SILENCE: Final = 4.0
"""Time without measurements that counts as a silence, in median steps of the track. No line is drawn across it."""
TIMED_TRACKS: Final = 1_000
"""Number of tracks from which the typical step is taken."""


def write_files(folder: Path, contents: Mapping[str, str | Figure]) -> list[Path]:
    """Write texts and figures by file name, each file complete or not at all, and return their paths.

    Raises:
        InputError: the folder is not writable, or the disk is full.
    """
    for name, content in contents.items():
        with whole_file(folder / name) as part:
            if isinstance(content, str):
                part.write_text(content, encoding="utf-8")
            else:
                content.savefig(part, format="png")
    return [folder / name for name in contents]


def track_figure(predictions: Sequence[Prediction], decision: DecisionConfig) -> Figure:
    """Altitude, phase and probability of the track with the largest onset error."""
    errors = onset_errors(predictions, decision)
    worst = int(np.abs(errors).argmax())
    prediction = predictions[worst]
    track = prediction.track
    labels, phase = labels_of(track), phase_of(prediction.probability, decision)
    seconds = track.timestamp - track.timestamp[0]
    gaps = silences(seconds)

    def over_time(values: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Points of a line that breaks at each silence."""
        return np.insert(seconds, gaps, seconds[gaps]), np.insert(values.astype(np.float64), gaps, np.nan)

    figure = Figure(figsize=(9, 6.5), dpi=100, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    altitude = track.measurements[:, MEASUREMENT_COLUMNS.index(ALTITUDE.name)] / 1e3
    above.plot(*over_time(altitude), color="black", lw=1.2)
    for panel in (above, below):
        for step in gaps:
            panel.axvspan(seconds[step - 1], seconds[step], color="0.9", hatch="//", ec="0.7", lw=0.0)
    if len(gaps):
        above.fill_between([], [], color="0.9", hatch="//", ec="0.7", lw=0.0, label="no measurements")
    above.set_ylabel("altitude, km")
    above.set_title(
        f"Track {track.track_id}, the largest onset error of {len(errors)} tracks: {errors[worst]:+.3f} s "
        "(predicted - true)",
        fontsize=11,
    )
    for steps, label, colour, style in (
        (labels, "true onset", "tab:blue", "-"),
        (phase, "predicted onset", "tab:red", "--"),
    ):
        onset = int(onset_of(steps))
        if onset != NO_ONSET:
            above.axvline(seconds[onset], color=colour, ls=style, lw=1.5, label=f"{label}: {seconds[onset]:.1f} s")
        else:
            above.plot([], [], color=colour, ls=style, label=f"{label}: none")
    below.fill_between(*over_time(labels), step="post", color="tab:blue", alpha=0.2, label="true phase")
    below.step(*over_time(phase), where="post", color="tab:red", ls="--", lw=1.2, label="predicted phase")
    below.plot(*over_time(prediction.probability), color="tab:orange", lw=1.5, label="predicted probability")
    below.axhline(decision.enter, color="grey", lw=0.8, ls=":", label=f"enter at {decision.enter:g}")
    below.set(xlabel="time since the first measurement, s", ylabel="reentry, 0 to 1", ylim=(-0.05, 1.05))
    figure.legend(loc="outside lower center", ncols=4, fontsize=9)
    return figure


def silences(seconds: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """Steps that follow a silence, (K,): at least `SILENCE` times the median step without measurements.

    Args:
        seconds: time of each step, (T,), s.
    """
    between = np.diff(seconds)
    usual = float(np.median(between[between > 0.0])) if (between > 0.0).any() else np.inf
    return np.flatnonzero(between >= SILENCE * usual) + 1


def typical_step(predictions: Iterable[Prediction]) -> float:
    """Median time between two steps in the first `TIMED_TRACKS` tracks, s."""
    steps = np.concatenate([np.diff(p.track.timestamp) for p in islice(predictions, TIMED_TRACKS)])
    return max(float(np.median(steps)), 1e-3) if len(steps) else 1.0


def errors_figure(errors: Mapping[str, npt.NDArray[np.float64]], step: float, scored: str) -> Figure:
    """Histograms of the onset errors, one panel for each method, on a common time axis.

    Args:
        errors: onset errors of each method, s; the network comes first.
        step: typical step of the tracks, s; bins are whole steps wide.
        scored: description of the scored runs for the title.
    """
    network = next(iter(errors))
    widest = max(float(np.abs(values).max()) for values in errors.values())
    steps_shown = min(round(widest / step), FARTHEST_STEPS)
    width = step * -(-steps_shown // BINS_EACH_SIDE) if steps_shown else step
    reach = (np.ceil(steps_shown * step / width) + 1.5) * width
    bins = np.arange(-reach, reach + width / 2, width)
    figure = Figure(figsize=(9, 1.2 + 1.7 * len(errors)), dpi=100, layout="constrained")
    panels = np.atleast_1d(figure.subplots(len(errors), 1, sharex=True))
    for panel, (method, values) in zip(panels, errors.items(), strict=True):
        shown = np.clip(values, bins[0], bins[-1])
        panel.hist(shown, bins=list(bins), color="tab:red" if method == network else "tab:grey", edgecolor="white")
        beyond = int(np.sum(np.abs(values) > reach))
        panel.set_title(
            f"{method}: RMSE {np.sqrt(np.mean(values**2)):.3f} s, worst {np.abs(values).max():.3f} s"
            + (f", {beyond} beyond the axis in the outer bins" if beyond else ""),
            fontsize=10,
        )
        panel.axvline(0.0, color="black", lw=0.6)
        panel.set_ylabel("tracks")
        panel.yaxis.get_major_locator().set_params(integer=True)
    panels[-1].set_xlabel(f"onset error, predicted - true, s (bins of {width:.3g} s)")
    figure.suptitle(f"Onset errors of {len(errors[network])} scored tracks, {scored}", fontsize=11)
    return figure


def reliability_figure(methods: dict[str, Reliability]) -> Figure:
    """Observed share of the steps in reentry over predicted probability, and the number of steps in each bin.

    A line joins adjacent bins only, because there is no measurement between two bins with empty ones in between.
    """
    figure = Figure(figsize=(6.5, 7.5), dpi=100, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.plot((0, 1), (0, 1), color="grey", lw=0.8, ls=":", label="calibrated")
    bins = len(next(iter(methods.values())).steps)
    edges = np.linspace(0.0, 1.0, bins + 1)
    colours = cycle(rcParams["axes.prop_cycle"].by_key()["color"])
    for place, ((name, found), colour) in enumerate(zip(methods.items(), colours, strict=False)):
        filled = found.steps > 0
        above.plot(
            *(np.where(filled, values, np.nan) for values in (found.predicted, found.observed)),
            marker="o",
            markersize=max(10 - 2 * place, 4),  # markers at the same point stay visible
            color=colour,
            lw=1.3,
            label=f"{name}: calibration error {found.error:.4f}",
        )
        below.stairs(np.maximum(found.steps, 0.5), edges, color=colour, lw=1.3)
    above.set(ylabel="share of the steps in reentry", ylim=(-0.03, 1.03))
    below.set(xlabel="predicted probability", ylabel="steps", yscale="log", xlim=(-0.03, 1.03), ylim=(0.7, None))
    above.set_title(f"Reliability, {sum(next(iter(methods.values())).steps):,} steps", fontsize=11)
    figure.legend(loc="outside lower center", fontsize=9)
    return figure
