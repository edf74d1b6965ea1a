"""Plots of predictions: one track, the onset errors, the reliability.

Shapes: T steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Final

import numpy as np
from matplotlib import rcParams
from matplotlib.figure import Figure

from reentry.decision import NO_ONSET, DecisionConfig, onset_of, phase_of
from reentry.schema import ALTITUDE, MEASUREMENT_COLUMNS
from training.metrics import Prediction, Reliability, onset_errors

FARTHEST_STEPS: Final = 100
"""Onset errors beyond so many steps are in the outermost bins."""
BINS_EACH_SIDE: Final = 40
TIMED_TRACKS: Final = 1_000
"""So many tracks say how long a step is."""


def track_figure(predictions: Sequence[Prediction], decision: DecisionConfig) -> Figure:
    """The track on which the network errs most."""
    errors = onset_errors(predictions, decision)
    worst = int(np.abs(errors).argmax())
    prediction = predictions[worst]
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


def errors_figure(methods: Mapping[str, Sequence[Prediction]], decision: DecisionConfig, of: str) -> Figure:
    """Onset errors, one panel a method, the network first, on one axis of time; bins are whole steps wide.

    Args:
        methods: predictions of each.
        decision: the thresholds.
        of: what was scored, for the title.
    """
    errors = {method: onset_errors(predictions, decision) for method, predictions in methods.items()}
    network = next(iter(methods))
    steps = np.concatenate([np.diff(p.track.timestamp) for p in methods[network][:TIMED_TRACKS]])
    step = max(float(np.median(steps)), 1e-3) if len(steps) else 1.0
    widest = max(float(np.abs(values).max()) for values in errors.values())
    steps_shown = min(round(widest / step), FARTHEST_STEPS)
    width = step * -(-steps_shown // BINS_EACH_SIDE) if steps_shown else step
    reach = (np.ceil(steps_shown * step / width) + 1.5) * width
    bins = np.arange(-reach, reach + width / 2, width)
    figure = Figure(figsize=(9, 1.2 + 1.7 * len(methods)), dpi=100, layout="constrained")
    panels = np.atleast_1d(figure.subplots(len(methods), 1, sharex=True))
    for panel, method in zip(panels, methods, strict=True):
        values = errors[method]
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
    figure.suptitle(f"Onset errors of {len(errors[network])} scored tracks, {of}", fontsize=11)
    return figure


def reliability_figure(methods: dict[str, Reliability]) -> Figure:
    """What came of the steps by the probability they were given, and how many those are."""
    figure = Figure(figsize=(6.5, 6.5), dpi=100, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.plot((0, 1), (0, 1), color="grey", lw=0.8, ls=":", label="calibrated")
    bins = len(next(iter(methods.values())).steps)
    edges = np.linspace(0.0, 1.0, bins + 1)
    for (name, found), colour in zip(
        methods.items(), cycle(rcParams["axes.prop_cycle"].by_key()["color"]), strict=False
    ):
        filled = found.steps > 0
        above.plot(
            found.predicted[filled],
            found.observed[filled],
            marker="o",
            markersize=4,
            color=colour,
            lw=1.3,
            label=f"{name}: off by {found.error:.4f} on average",
        )
        below.stairs(np.maximum(found.steps, 0.5), edges, color=colour, lw=1.3)
    above.set(ylabel="share of the steps in reentry", ylim=(-0.03, 1.03))
    above.legend(loc="upper left")
    below.set(xlabel="probability given", ylabel="steps", yscale="log", xlim=(-0.03, 1.03), ylim=(0.7, None))
    above.set_title(f"Reliability, {sum(next(iter(methods.values())).steps):,} steps", fontsize=11)
    return figure
