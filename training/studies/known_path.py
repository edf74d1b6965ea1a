"""How well an onset could be told at all: by one who knows all about a flight but its ballistic coefficient.

Drag is q / b, q the dynamic pressure and b the ballistic coefficient, so reentry begins where q passes b * 0.1 g. Until
then the air has hardly moved the body: it is behind the path without air by D / b, where D is q integrated twice over
time, a few metres where sensors err by tens or hundreds. `known_path` is told the true path, what each sensor's bias,
clock and noise are, which measurements are outliers, and what the simulator draws b from. It weighs each b by Bayes'
rule with the measurements that have come so far, and says how likely the onset has passed. No method that has to find
the path as well can be expected to do better. That is an estimate, not a proof: the onset is decided by the fixed
thresholds of every method, which are not those of least RMSE.

The limit is generous: the speed at burnout is known, too, so the little drag on the way up tells b of short shots. To
first order in the drag, which is small until the onset. Only what lies along the path counts.

Shapes: T steps of a track, R rows of the truth of its flight, G coefficients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from reentry.schema import ALTITUDE, LATITUDE, LONGITUDE, MEASUREMENT_COLUMNS, SENSOR_ID
from reentry.simulation import earth
from reentry.simulation.ballistic import ONSET_DRAG, BallisticConfig, true_flights
from reentry.simulation.sensors import SensorConfig
from reentry.simulation.shots import DECOYS_FROM, ShotConfig
from training.data.samples import Sample
from training.evaluation.metrics import Prediction

Float64 = npt.NDArray[np.float64]

COEFFICIENTS: Final = 300
"""Of each kind of body, evenly in their logarithm."""

_LEAST_NOISE: Final = 0.01
"""m. What the seconds of Unix time in float64 make of a position at 7 km/s."""

_OUTLIER: Final = 5.0
"""Deviations off the path from which on a measurement is not counted."""

_LATITUDE, _LONGITUDE, _ALTITUDE, _SENSOR = (
    MEASUREMENT_COLUMNS.index(column.name) for column in (LATITUDE, LONGITUDE, ALTITUDE, SENSOR_ID)
)


def known_path(samples: Sequence[Sample], config: BallisticConfig) -> list[Prediction]:
    """Probabilities that the onset has passed, given the measurements so far and all but the ballistic coefficient.

    Args:
        samples: tracks that `config` simulates, in its order, all of them.
        config: of their simulation.
    """
    assert len(samples) == config.tracks, "no track was set aside"
    predictions = []
    for chunk in true_flights(config):
        flights = chunk.flights
        starts = np.searchsorted(flights.shot, np.arange(len(chunk.shots.distance) + 1))
        position = earth.to_ecef(flights.position, flights.time)
        velocity = earth.to_ecef(flights.velocity - earth.rotation_velocity(flights.position), flights.time)
        drag = np.where(flights.boosting, 0.0, flights.drag)
        falling = np.einsum("kn,kn->n", flights.position, flights.velocity) < 0.0
        for shot, coefficient in enumerate(chunk.shots.ballistic_coefficient):
            rows = slice(starts[shot], starts[shot + 1])
            sample = samples[chunk.first + shot]
            launched = config.first_launch + config.launch_interval * (chunk.first + shot)
            row = np.clip((sample.track.timestamp - launched) / config.step, 0, rows.stop - rows.start - 1)
            off, noise = _along_the_path(sample, position[:, rows], velocity[:, rows], row, config)
            logarithm, prior = _prior(config.shots, chunk.shots.distance[shot])
            share = coefficient / np.exp(logarithm)
            probability = _passed(drag[rows], falling[rows], row, off, noise, share, prior, config.step)
            predictions.append(Prediction(track=sample.track, probability=probability))
    return predictions


def _along_the_path(
    sample: Sample, position: Float64, velocity: Float64, row: Float64, config: BallisticConfig
) -> tuple[Float64, Float64]:
    """How far along its path each measurement is off the truth, and by how much its sensor errs, (T,) each, m.

    Args:
        sample: the track.
        position: (3, R), m, ECEF.
        velocity: (3, R), m/s, ECEF.
        row: (T,), where among the rows of the truth each measurement was made.
        config: of the simulation.

    Returns:
        The difference less what its sensor's bias and clock make of it; and its deviation, infinite for an outlier.
    """
    import pymap3d

    at = row.astype(np.int64)
    since = (row - at) * config.step
    gained = (np.diff(velocity, axis=1, append=velocity[:, -1:]) / config.step)[:, at]
    truth = position[:, at] + velocity[:, at] * since + gained * since**2 / 2
    cells = sample.track.measurements
    seen = np.stack(pymap3d.geodetic2ecef(cells[:, _LATITUDE], cells[:, _LONGITUDE], cells[:, _ALTITUDE]))
    speed = np.maximum(np.linalg.norm(velocity[:, at], axis=0), 1.0)
    forward = velocity[:, at] / speed
    off = np.einsum("kt,kt->t", seen - truth, forward)
    noise = np.empty_like(off)
    for sensor in np.unique(cells[:, _SENSOR]):
        own = cells[:, _SENSOR] == sensor
        off[own], noise[own] = _freed(off[own], np.vstack([forward, speed])[:, own], config.sensors)
    return off, noise


def _freed(off: Float64, along: Float64, sensors: SensorConfig) -> tuple[Float64, Float64]:
    """One sensor's differences (n,) without what a bias and a clock, (4, n) of each, make of them, and its noise (n,).

    Least squares with what is known of both before (ridge), outliers left out.
    """
    lowest, highest = sensors.position_noise
    known = np.array([*[sensors.position_bias] * 3, sensors.clock_offset])
    left = off - np.median(off)
    for _ in range(3):
        noise = float(np.clip(1.4826 * np.median(np.abs(left)), lowest, highest)) + _LEAST_NOISE
        counted = np.abs(left) <= _OUTLIER * noise
        matrix = along[:, counted] / noise
        precision = matrix @ matrix.T + np.diag(1.0 / np.maximum(known, 1e-9) ** 2)
        left = off - np.linalg.solve(precision, matrix @ off[counted] / noise) @ along
    return left, np.where(np.abs(left) > _OUTLIER * noise, np.inf, noise)


def _prior(config: ShotConfig, distance: float) -> tuple[Float64, Float64]:
    """Logarithms of the coefficients that a shot of that range may have, and how likely each is, (G,) both."""
    kinds = [(config.ballistic_coefficient, 1.0)]
    if distance >= DECOYS_FROM:
        kinds = [(config.ballistic_coefficient, 1.0 - config.decoys), (config.decoy_coefficient, config.decoys)]
    logarithms = [np.log(np.geomspace(*span, COEFFICIENTS)) for span, _ in kinds]
    return np.concatenate(logarithms), np.repeat([share / COEFFICIENTS for _, share in kinds], COEFFICIENTS)


def _passed(
    drag: Float64,
    falling: npt.NDArray[np.bool_],
    row: Float64,
    off: Float64,
    noise: Float64,
    share: Float64,
    prior: Float64,
    step: float,
) -> Float64:
    """(T,), how likely the onset has passed at each measurement.

    Args:
        drag: (R,), m/s2, the true one, without thrust.
        falling: (R,), on descent.
        row: (T,), where among its rows each measurement was made.
        off: (T,), m along the path.
        noise: (T,), m.
        share: (G,), of the true drag that a body of each coefficient has.
        prior: (G,), of each coefficient.
        step: s between two rows.
    """
    slowed = step * np.cumsum(drag) - 0.5 * step * drag
    behind = np.interp(row, np.arange(len(drag)), step * np.cumsum(slowed) - 0.5 * step * slowed)  # (T,), m
    # The first row whose drag would be above the limit.
    onset = np.searchsorted(np.maximum.accumulate(drag * falling), ONSET_DRAG / share, side="right")
    missed = (np.outer(share - 1.0, behind) + off) / noise  # (G, T)
    log_likelihood = np.cumsum(-0.5 * missed**2, axis=1) + np.log(np.maximum(prior, 1e-300))[:, None]
    weight = np.exp(log_likelihood - log_likelihood.max(axis=0))
    passed = weight * (onset[:, None] <= np.round(row)[None])
    probability: Float64 = passed.sum(axis=0) / weight.sum(axis=0)
    return probability
