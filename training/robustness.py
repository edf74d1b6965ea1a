"""A checkpoint on flights unlike those it was trained on: `python -m training.robustness CHECKPOINT`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from reentry.errors import ReentryError
from reentry.schema import ALTITUDE, MEASUREMENT_COLUMNS, REENTRY_PHASE, TRACK_ID
from reentry.simulation import TrapezoidConfig, simulate_trapezoid
from reentry.tracks import Track
from training.checkpoint import load_checkpoint
from training.data import samples_of
from training.loop import predict
from training.metrics import score

FLIGHTS: Final = 200
SEED: Final = 555

_USUAL: Final = TrapezoidConfig(tracks=FLIGHTS, seed=SEED)

VARIANTS: Final[dict[str, tuple[TrapezoidConfig, float]]] = {
    "as trained": (_USUAL, 0.0),
    "apogee 60 km": (replace(_USUAL, lowest_apogee=60e3, highest_apogee=60e3), 0.0),
    "apogee 200 km": (replace(_USUAL, lowest_apogee=200e3, highest_apogee=200e3), 0.0),
    "step 0.1 s": (replace(_USUAL, step=0.1), 0.0),
    "step 2 s": (replace(_USUAL, step=2.0), 0.0),
    "noise 0.05 in place of 0.01": (replace(_USUAL, noise=0.05), 0.0),
    "50 m noise in altitude": (_USUAL, 50.0),
    "200 m noise in altitude": (_USUAL, 200.0),
    "200 to 300 steps": (replace(_USUAL, shortest=200, longest=300), 0.0),
    "2,000 to 2,400 steps": (replace(_USUAL, shortest=2000, longest=2400), 0.0),
}
"""Name -> the flights, and the standard deviation of what is added to their altitudes, m."""


def tracks_of(config: TrapezoidConfig, altitude_noise: float, kept: float = 1.0) -> list[Track]:
    """Simulated tracks with noisier altitudes; of each, the first `kept` share of its steps."""
    table = simulate_trapezoid(config)
    table[ALTITUDE.name] += np.random.default_rng(config.seed).normal(0.0, altitude_noise, len(table))
    return [
        _track(number, flight.head(round(len(flight) * kept)))
        for number, (_, flight) in enumerate(table.groupby(TRACK_ID.name))
    ]


def report(checkpoint: Path) -> Sequence[str]:
    """Rows of a Markdown table.

    Raises:
        CheckpointError: the checkpoint cannot be used.
    """
    trained = load_checkpoint(checkpoint)
    cases = {name: tracks_of(*variant) for name, variant in VARIANTS.items()}
    cases["cut off at 10, 29, 50, 69 and 80 % of the flight"] = [
        track for share in (0.10, 0.29, 0.50, 0.69, 0.80) for track in tracks_of(_USUAL, 0.0, share)
    ]
    rows = []
    for name, tracks in cases.items():
        figures = score(predict(trained.model, samples_of(tracks, where=name)), trained.decision)
        rows.append(
            f"| {name} | {figures.onset_rmse:.3f} | {figures.onset_worst:.1f} | {figures.onset_exact:.0%} "
            f"| {figures.missed_onsets} | {figures.false_onsets} |"
        )
    return rows


def _track(track_id: int, flight: pd.DataFrame) -> Track:
    steps = np.arange(len(flight))
    return Track(
        track_id=track_id,
        measurements=flight[list(MEASUREMENT_COLUMNS)].to_numpy(np.float64),
        reentry_phase=flight[REENTRY_PHASE.name].to_numpy(np.int8),
        rows=steps,
        steps=steps,
    )


def main() -> None:
    """Print the table."""
    try:
        rows = report(Path(sys.argv[1] if len(sys.argv) > 1 else "artifacts/train/model.ckpt"))
    except ReentryError as error:
        sys.exit(f"error: {error}")
    print(f"{FLIGHTS} flights each, simulation seed {SEED}\n")
    print("| flights | onset RMSE, s | worst, s | exact step | missed | false |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |", *rows, sep="\n")


if __name__ == "__main__":
    main()
