"""The orbit filter alone under different priors, also on flights whose coefficients have another distribution.

    python -m training.studies.prior_transfer

It prints two Markdown tables: onset errors by simulation, severity and prior, and how well the filter knows its own
error before and after the onset.

Shapes: K shots, N flights, R speeds, G coefficients.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import numpy.typing as npt
import typer

from reentry.decision import DecisionConfig
from reentry.features.groups import ORBIT
from reentry.features.orbit_posterior import COEFFICIENTS, speed_shares
from reentry.runtime.cores import cores
from reentry.schema import FEATURES
from reentry.simulation import SEVERITIES, BallisticConfig, ShotConfig, ballistic_chunks, earth, of_severity
from reentry.simulation.shots import draw_shots
from reentry.tracks.write import write_tracks
from training.data.samples import SETTLING, Sample, Statistics, read_labelled
from training.evaluation.metrics import Metrics, score
from training.models.baselines import predict_with
from training.models.orbit_prior import learned_prior
from training.studies.orbit_baselines import FLAT, OrbitFilterAlone

Float64 = npt.NDArray[np.float64]

DEFAULT: Final = "default"
SIMULATIONS: Final = {
    DEFAULT: ShotConfig(),
    "other": ShotConfig(ballistic_coefficient=(4_000.0, 9_000.0), decoy_coefficient=(150.0, 300.0), decoys=0.4),
}
"""Simulations by name, which differ in the distribution of the ballistic coefficients."""

JUDGED: Final = (1, 2, 3)
"""Severities of the flights that the priors are compared on; priors are learned on flights of all severities."""

OFFSETS: Final = (-10.0, 0.0, 5.0)
"""Times from the onset at which the filter's knowledge of its error is measured, s."""

WELL_KNOWN: Final = 0.05
"""Largest relative deviation of a settled drag factor that serves as the truth."""

SMALLEST_FACTOR: Final = 0.06
"""Drag factor below which the deviation is relative to this, 1e-3 m2/kg."""

DRAWN: Final = 200_000
"""Number of shots from which the simulator's own prior is computed."""

_KNOWN, _FACTOR, _DEVIATION = (
    FEATURES.index(name) for name in ("orbit_known", "orbit_drag_factor", "orbit_drag_deviation")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Errors of the drag factor relative to its predicted deviation, some time from the onset."""

    flights: int
    mean: float
    spread: float
    """Standard deviation; 1 if the predicted deviation is right."""


def simulated(shots: ShotConfig, count: int, severity: int, seed: int) -> list[Sample]:
    """Simulate flights and compute their orbit features."""
    config = BallisticConfig(tracks=count, seed=seed + severity, shots=shots, sensors=of_severity(severity))
    with tempfile.TemporaryDirectory(prefix="reentry-priors-") as folder:
        path = Path(folder, "flights.parquet")
        write_tracks(path, ballistic_chunks(config, processes=cores()))
        return read_labelled(path, groups=frozenset({ORBIT}))


def simulator_prior(config: ShotConfig) -> Float64:
    """Return the distribution of coefficients that the simulator draws from, at each speed at entry, (R, G).

    The speed of a shot follows from its range and elevation on a Kepler ellipse (Bate, Mueller and White, Fundamentals
    of Astrodynamics, section 6.2). The rotation of the Earth is ignored.
    """
    shots = draw_shots(config, DRAWN, np.random.default_rng(0))
    angle = shots.distance * shots.thrust_ends / earth.MEAN_RADIUS
    elevation = shots.elevation
    shape = (1.0 - np.cos(angle)) / (np.cos(elevation) * (np.cos(elevation) - np.cos(elevation + angle)))
    squared = shape * earth.MU / earth.MEAN_RADIUS - 2.0 * earth.STANDARD_GRAVITY * 100e3
    near = speed_shares(np.sqrt(np.maximum(squared, 0.0)))  # (K, R)
    edges = np.sqrt(COEFFICIENTS[:-1] * COEFFICIENTS[1:])
    cell = np.searchsorted(edges, shots.ballistic_coefficient)
    prior: Float64 = np.stack([np.bincount(cell, weights=share, minlength=len(COEFFICIENTS)) for share in near.T])
    prior /= prior.sum(axis=1, keepdims=True)
    return prior


def learned(shots: ShotConfig, count: int, seed: int, severities: Sequence[int]) -> Float64:
    """Return the prior that a network learns from simulated flights, (R, G)."""
    settled = [Statistics.of(simulated(shots, count, severity, seed), 1).settled.numpy() for severity in severities]
    return learned_prior(np.concatenate(settled))


def scores(samples: Sequence[Sample], priors: dict[str, Float64]) -> dict[str, Metrics]:
    """Score the orbit filter alone under each prior."""
    return {
        name: score(predict_with(OrbitFilterAlone(prior), samples), DecisionConfig()) for name, prior in priors.items()
    }


def calibration(samples: Sequence[Sample], offset: float) -> Calibration:
    """Compare the drag factor some time from the onset with the one that is well known `SETTLING` s after it."""
    errors = []
    for sample in samples:
        time, features = sample.track.timestamp, sample.features.numpy().astype(np.float64)
        if not sample.phase.any():
            continue
        onset = time[int(sample.phase.argmax())]
        step, last = (int(np.searchsorted(time, onset + after, side="right")) - 1 for after in (offset, SETTLING))
        settled = features[last]
        allowed = WELL_KNOWN * max(settled[_FACTOR], SMALLEST_FACTOR)
        if step >= 0 and features[step, _KNOWN] > 0.0 and settled[_KNOWN] > 0.0 and settled[_DEVIATION] <= allowed:
            errors.append((features[step, _FACTOR] - settled[_FACTOR]) / features[step, _DEVIATION])
    return Calibration(
        flights=len(errors),
        mean=float(np.mean(errors)) if errors else float("nan"),
        spread=float(np.std(errors)) if errors else float("nan"),
    )


def table(count: int, training: int, seed: int = 500) -> Iterator[str]:
    """Yield the lines of both Markdown tables.

    Args:
        count: flights of each severity to judge by.
        training: flights of each severity to learn a prior from.
        seed: simulation seed of the first training flights.
    """
    severities = range(len(SEVERITIES))
    yield "| coefficients | severity | prior | onset RMSE, s | false alarms per 1,000 |"
    yield "| --- | ---: | --- | ---: | ---: |"
    calibrations = []
    by_default: dict[str, Float64] = {}
    for number, (simulation, shots) in enumerate(SIMULATIONS.items()):
        first = seed + 100 * number
        own = learned(shots, training, first, severities)
        priors = {"flat": FLAT, "the simulator's": simulator_prior(shots), "learned": own, **by_default}
        by_default = by_default or {f"learned on {DEFAULT} coefficients": own}
        for severity in JUDGED:
            samples = simulated(shots, count, severity, first + 50)
            for name, metrics in scores(samples, priors).items():
                yield (
                    f"| {simulation} | {severity} | {name} | {metrics.onset_rmse:.2f} | {metrics.false_alarms:.1f} |"
                )
            calibrations.append((simulation, severity, [calibration(samples, offset) for offset in OFFSETS]))
    times = " | ".join(f"spread at {offset:+g} s | mean" for offset in OFFSETS)
    yield ""
    yield f"| coefficients | severity | flights | {times} |"
    yield "| --- | ---: | ---: |" + " ---: |" * (2 * len(OFFSETS))
    for simulation, severity, found in calibrations:
        cells = " | ".join(f"{each.spread:.2f} | {each.mean:+.2f}" for each in found)
        yield f"| {simulation} | {severity} | {found[-1].flights:,} | {cells} |"


def main(
    count: Annotated[int, typer.Option("--flights", help="Flights of each severity to judge by.")] = 1_000,
    training: Annotated[int, typer.Option(help="Flights of each severity to learn a prior from.")] = 1_000,
) -> None:
    """Print the errors of the orbit filter under different priors, and how well it knows its own error.

    Example: `python -m training.studies.prior_transfer --flights 1000`
    """
    for line in table(count, training):
        typer.echo(line)


if __name__ == "__main__":
    typer.run(main)
