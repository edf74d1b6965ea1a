"""Lower bound on the onset error, estimated by a method that knows everything but the ballistic coefficient.

Drag is q / b, where q is the dynamic pressure and b the ballistic coefficient, so reentry begins when q exceeds
b * 0.1 g. Until then the air has hardly moved the body. It is behind the path without air by D / b, where D is q
integrated twice over time. That is a few metres, while sensors err by tens or hundreds.

`known_path` is given the true path, the bias, clock and noise of each sensor, the outliers, and the distribution that
the simulator draws b from. It weighs each b by Bayes' rule with the measurements so far, and returns the probability
that the onset has passed. A method that has to find the path as well cannot be expected to do better. This is an
estimate, not a proof, because the onset is decided by fixed thresholds, which do not minimise the RMSE.

The bound is low for short shots: the speed at burnout is known, too, so even the small drag during the ascent reveals
b. The estimate is of first order in the drag, which is small until the onset, and uses distances along the path only.

Shapes: T steps of a track, R rows of the truth of its flight, G coefficients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from reentry.features.orbit_posterior import ONSET_DRAG
from reentry.schema import ALTITUDE, LATITUDE, LONGITUDE, MEASUREMENT_COLUMNS, SENSOR_ID
from reentry.simulation import earth
from reentry.simulation.ballistic import BallisticConfig, true_flights
from reentry.simulation.sensors import SensorConfig
from reentry.simulation.shots import DECOYS_FROM, ShotConfig
from training.data.samples import Sample
from training.evaluation.metrics import Prediction

Float64 = npt.NDArray[np.float64]

COEFFICIENTS: Final = 300
"""Number of ballistic coefficients for each kind of body, evenly spaced in their logarithm."""

_LEAST_NOISE: Final = 0.01
"""Error of a position at 7 km/s from the resolution of Unix time in float64, m."""

_OUTLIER: Final = 5.0
"""Distance from the path, in standard deviations, beyond which a measurement is an outlier."""

_LATITUDE, _LONGITUDE, _ALTITUDE, _SENSOR = (
    MEASUREMENT_COLUMNS.index(column.name) for column in (LATITUDE, LONGITUDE, ALTITUDE, SENSOR_ID)
)


def known_path(samples: Sequence[Sample], config: BallisticConfig) -> list[Prediction]:
    """Probabilities that the onset has passed, given the measurements so far and all but the ballistic coefficient.

    Args:
        samples: all tracks that `config` simulates, in the same order.
        config: settings of the simulation.
    """
    assert len(samples) == config.tracks, "no track was set aside"
    predictions = []
    for chunk in true_flights(config):
        flights = chunk.flights
        starts = np.searchsorted(flights.shot, np.arange(len(chunk.shots.distance) + 1))
        position = earth.to_ecef(flights.position, flights.time)
        velocity = earth.to_ecef(earth.velocity_through_air(flights.position, flights.velocity), flights.time)
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
    """Error of each measurement along the path, and standard deviation of its sensor's noise, (T,) each, m.

    Args:
        sample: the track.
        position: true position in ECEF, (3, R), m.
        velocity: true velocity in ECEF, (3, R), m/s.
        row: row of the truth at the time of each measurement, with a fraction, (T,).
        config: settings of the simulation.

    Returns:
        The errors without the part that the sensor's bias and clock cause, and the standard deviations, which are
        infinite for outliers.
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
        rows = cells[:, _SENSOR] == sensor
        off[rows], noise[rows] = _corrected(off[rows], np.vstack([forward, speed])[:, rows], config.sensors)
    return off, noise


def _corrected(off: Float64, along: Float64, sensors: SensorConfig) -> tuple[Float64, Float64]:
    """Errors of one sensor, corrected for its bias and clock, and standard deviation of its noise, (n,) each, m.

    Bias and clock offset are fitted by ridge regression, with their prior distributions and without outliers.

    Args:
        off: error along the path, (n,), m.
        along: change of that error with each component of the bias and with the clock offset, (4, n).
        sensors: settings of the simulated sensors.
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
    """Logarithms and prior probabilities of the coefficients that a shot of this range may have, (G,) each."""
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
    """Probability that the onset has passed at each measurement, (T,).

    Args:
        drag: true drag, 0 under thrust, (R,), m/s2.
        falling: whether the body descends, (R,).
        row: row of the truth at the time of each measurement, with a fraction, (T,).
        off: error along the path, (T,), m.
        noise: standard deviation of that error, (T,), m.
        share: drag of a body with each coefficient, relative to the true drag, (G,).
        prior: probability of each coefficient, (G,).
        step: time between two rows, s.
    """
    slowed = step * np.cumsum(drag) - 0.5 * step * drag
    behind = np.interp(row, np.arange(len(drag)), step * np.cumsum(slowed) - 0.5 * step * slowed)  # (T,), m
    # First row, for each coefficient, whose drag would exceed the limit.
    onset = np.searchsorted(np.maximum.accumulate(drag * falling), ONSET_DRAG / share, side="right")
    missed = (np.outer(share - 1.0, behind) + off) / noise  # (G, T)
    log_likelihood = np.cumsum(-0.5 * missed**2, axis=1) + np.log(np.maximum(prior, 1e-300))[:, None]
    weight = np.exp(log_likelihood - log_likelihood.max(axis=0))
    passed = weight * (onset[:, None] <= np.round(row)[None])
    probability: Float64 = passed.sum(axis=0) / weight.sum(axis=0)
    return probability
