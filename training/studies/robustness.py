"""Metrics of a checkpoint on unusual flights: `python -m training.studies.robustness CHECKPOINT`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from reentry.errors import ReentryError
from reentry.features.outliers import HISTORY
from reentry.runtime.progress import progress
from reentry.schema import ALTITUDE, MEASUREMENT_COLUMNS, REENTRY_PHASE, TRACK_ID
from reentry.simulation import TrapezoidConfig, simulate_trapezoid
from reentry.tracks import Track
from training.checkpoint import load_checkpoint
from training.data.samples import samples_of
from training.evaluation.metrics import score
from training.evaluation.predictions import predict

FLIGHTS: Final = 200
SEED: Final = 555

_USUAL: Final = TrapezoidConfig(tracks=FLIGHTS, seed=SEED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """Simulated flights and the changes to their measured altitudes."""

    flights: TrapezoidConfig = _USUAL
    altitude_noise: float = 0.0
    """Standard deviation of Gaussian noise in addition to the simulated noise, m."""
    burst: int = 0
    """Number of consecutive rows of each flight, at a random place, whose altitudes are up to 50 km wrong."""
    altitude_scale: float = 1.0
    """Factor on every altitude, such as 0.001 for km instead of m."""
    kept: float = 1.0
    """Share of the rows of each flight that are kept, from its start."""


def _rows(share: float, step: float = _USUAL.step) -> TrapezoidConfig:
    """Flights with `share` times the usual number of rows, `step` seconds apart."""
    return replace(_USUAL, shortest=round(600 * share), longest=round(1200 * share), step=step)


VARIANTS: Final[dict[str, Variant]] = {
    "as trained": Variant(),
    "the same flights every 0.1 s, five times the rows": Variant(flights=_rows(5, step=0.1)),
    "the same flights every 0.25 s, twice the rows": Variant(flights=_rows(2, step=0.25)),
    "the same flights every 1 s, half the rows": Variant(flights=_rows(0.5, step=1.0)),
    "the same flights every 2 s, a quarter of the rows": Variant(flights=_rows(0.25, step=2.0)),
    "ten times as long, ten times the rows": Variant(flights=_rows(10)),
    "three times as long, three times the rows": Variant(flights=_rows(3)),
    "a third as long, a third of the rows": Variant(flights=_rows(1 / 3)),
    "apogee 60 km": Variant(flights=replace(_USUAL, lowest_apogee=60e3, highest_apogee=60e3)),
    "apogee 200 km": Variant(flights=replace(_USUAL, lowest_apogee=200e3, highest_apogee=200e3)),
    "noise 0.05 in place of 0.01": Variant(flights=replace(_USUAL, noise=0.05)),
    "50 m noise in altitude": Variant(altitude_noise=50.0),
    "200 m noise in altitude": Variant(altitude_noise=200.0),
    "one altitude far off": Variant(burst=1),
    "three altitudes in a row far off": Variant(burst=3),
    "six altitudes in a row far off": Variant(burst=6),
    "altitude in km, which `reentry predict` warns of": Variant(altitude_scale=0.001),
    **{f"cut off at {share:.0%} of the flight": Variant(kept=share) for share in (0.10, 0.29, 0.50, 0.69, 0.80)},
}


def tracks_of(variant: Variant) -> list[Track]:
    """Simulated tracks of a variant."""
    table = simulate_trapezoid(variant.flights)
    rng = np.random.default_rng(variant.flights.seed)
    table[ALTITUDE.name] += rng.normal(0.0, variant.altitude_noise, len(table))
    table[ALTITUDE.name] *= variant.altitude_scale
    tracks = []
    column = MEASUREMENT_COLUMNS.index(ALTITUDE.name)
    for number, (_, flight) in enumerate(table.groupby(TRACK_ID.name)):
        track = _track(number, flight.head(round(len(flight) * variant.kept)))
        if variant.burst:
            first = int(rng.integers(2 * HISTORY, len(track) - variant.burst))
            track.measurements[first : first + variant.burst, column] += rng.uniform(-50e3, 50e3, variant.burst)
        tracks.append(track)
    return tracks


def report(checkpoint: Path) -> Sequence[str]:
    """Rows of a Markdown table.

    Raises:
        CheckpointError: the checkpoint is missing or invalid.
    """
    trained = load_checkpoint(checkpoint)
    rows = []
    with progress("scoring", len(VARIANTS), "kinds of flights") as advance:
        for name, variant in VARIANTS.items():
            samples = samples_of(tracks_of(variant), where=name, groups=trained.model_config.groups)
            figures = score(predict(trained.model, samples), trained.decision)
            rows.append(
                f"| {name} | {figures.onset_rmse:.3f} | {figures.onset_worst:.1f} | {figures.onset_exact:.1%} "
                f"| {figures.missed_onsets} | {figures.false_onsets} |"
            )
            advance(1)
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
    """Print the table for the checkpoint that the first command-line argument names."""
    try:
        rows = report(Path(sys.argv[1] if len(sys.argv) > 1 else "artifacts/train/model.ckpt"))
    except ReentryError as error:
        sys.exit(f"error: {error}")
    print(f"{FLIGHTS} flights each, simulation seed {SEED}\n")
    print("| flights | onset RMSE, s | worst, s | exact step | missed | false |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |", *rows, sep="\n")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # shows the progress
    main()
