"""Simulation of sensors: noise, bias, handover, lost and late measurements, outliers and clock offsets.

Shapes: K flights, S sensors per flight at most, N true rows, M measured rows.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from reentry.errors import ConfigError
from reentry.runtime.arguments import require_between
from reentry.schema import ALTITUDE
from reentry.simulation.earth import EQUATOR

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

SENSORS: Final = 32
"""Number of sensors in the network; each flight is measured by some of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorConfig:
    """Errors of the sensors. The defaults are one error-free sensor per flight."""

    sensors: tuple[int, int] = (1, 1)
    """Minimum and maximum number of sensors per flight, which take over from each other at random times."""
    position_noise: tuple[float, float] = (0.0, 0.0)
    """Lowest and highest standard deviation of the position noise per axis, m; drawn for each sensor of a flight."""
    position_bias: float = 0.0
    """Standard deviation, per axis, of the position bias of a sensor, m; constant during a flight."""
    intensity_noise: float = 0.0
    """Standard deviation of the intensity noise, as a fraction of the intensity."""
    jitter: float = 0.0
    """Standard deviation of the measurement time, as a fraction of the step; truncated at 0.4."""
    missing: float = 0.0
    """Fraction of measurements that are lost."""
    bursts: float = 0.0
    """Mean number of outages per flight."""
    burst: tuple[float, float] = (5.0, 20.0)
    """Shortest and longest duration of an outage, s."""
    outliers: float = 0.0
    """Fraction of measurements with an outlying position, and of those with an outlying intensity."""
    duplicates: float = 0.0
    """Fraction of measurements that arrive twice."""
    out_of_order: float = 0.0
    """Fraction of measurements that arrive late."""
    clock_offset: float = 0.0
    """Standard deviation of the clock offset of a sensor, s."""

    def __post_init__(self) -> None:
        fewest, most = self.sensors
        low, high = self.position_noise
        shortest, longest = self.burst
        checks = {
            "sensors": (1 <= fewest <= most <= SENSORS, f"1 <= fewest <= most <= {SENSORS}", f"{fewest}, {most}"),
            "position_noise": (
                0.0 <= low <= high <= 1e5 and (low > 0.0 or high == 0.0),
                "0, 0 or 0 < lowest <= highest <= 1e5 m",
                f"{low:g}, {high:g}",
            ),
            "burst": (
                0.0 < shortest <= longest <= 600.0,
                "0 < shortest <= longest <= 600 s",
                f"{shortest:g}, {longest:g}",
            ),
        }
        for name, (valid, expected, got) in checks.items():
            if not valid:
                raise ConfigError(f"{name} out of range", expected=expected, got=got)
        require_between("position_bias", self.position_bias, 0, 100_000, unit="m")
        require_between("clock_offset", self.clock_offset, 0, 60, unit="s")
        require_between("bursts", self.bursts, 0, 100)
        for name in ("intensity_noise", "jitter"):
            require_between(name, getattr(self, name), 0, 1)
        for name in ("missing", "outliers", "duplicates", "out_of_order"):
            require_between(name, getattr(self, name), 0, 0.5)


SEVERITIES: Final = (
    SensorConfig(),
    SensorConfig(
        sensors=(1, 2),
        position_noise=(20.0, 50.0),
        position_bias=20.0,
        intensity_noise=0.05,
        jitter=0.05,
        missing=0.05,
        bursts=0.5,
        outliers=0.002,
        duplicates=0.005,
        out_of_order=0.01,
        clock_offset=0.02,
    ),
    SensorConfig(
        sensors=(1, 3),
        position_noise=(40.0, 200.0),
        position_bias=100.0,
        intensity_noise=0.1,
        jitter=0.1,
        missing=0.1,
        bursts=1.0,
        outliers=0.005,
        duplicates=0.01,
        out_of_order=0.02,
        clock_offset=0.05,
    ),
    SensorConfig(
        sensors=(2, 4),
        position_noise=(100.0, 500.0),
        position_bias=300.0,
        intensity_noise=0.2,
        jitter=0.2,
        missing=0.2,
        bursts=2.0,
        outliers=0.01,
        duplicates=0.02,
        out_of_order=0.05,
        clock_offset=0.1,
    ),
)
"""Sensors of `--severity` 0 to 3: error-free, good, ordinary and poor."""


def of_severity(severity: int, **settings: Any) -> SensorConfig:
    """Return the sensors of a severity with some settings replaced.

    Raises:
        ConfigError: The severity is out of range, or a setting is unknown or out of range.
    """
    if not 0 <= severity < len(SEVERITIES):
        raise ConfigError("severity out of range", expected=f"0 to {len(SEVERITIES) - 1}", got=str(severity))
    known = {field.name for field in fields(SensorConfig)}
    if unknown := sorted(set(settings) - known):
        raise ConfigError("unknown sensor setting", expected=", ".join(sorted(known)), got=", ".join(unknown))
    return replace(SEVERITIES[severity], **settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """True flights, with one row per step, sorted by flight and time."""

    shot: Int64
    """Index of the flight, (N,); every index from 0 occurs."""
    time: Float64
    """Time since launch, (N,), s."""
    position: Float64
    """Position, (3, N), m, ECEF."""
    velocity: Float64
    """Velocity, (3, N), m/s, ECEF."""
    brightness: Float64
    """Relative brightness, (N,)."""
    reentry_phase: npt.NDArray[np.int8]
    """Labels, (N,), 0 or 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sightings:
    """Measurements in order of flight and arrival, (M,) each."""

    shot: Int64
    time: Float64
    """Time since launch by the sensor's clock, s."""
    sensor: Int64
    latitude: Float64
    """Geodetic latitude, degrees."""
    longitude: Float64
    """Longitude, degrees."""
    altitude: Float64
    """Height over the ellipsoid, m."""
    intensity: Float64
    reentry_phase: npt.NDArray[np.int8]


def observe(truth: Truth, config: SensorConfig, *, step: float, random: np.random.Generator) -> Sightings:
    """Measure flights whose true rows are `step` s apart."""
    import pymap3d

    rows = len(truth.shot)
    flights = int(truth.shot[-1]) + 1
    start = np.flatnonzero(np.diff(truth.shot, prepend=-1))
    ends = truth.time[np.append(start[1:], rows) - 1]
    most = config.sensors[1]

    # The handover times divide each flight among its sensors.
    count = random.integers(config.sensors[0], most, size=flights, endpoint=True)
    handover = np.sort(random.uniform(size=(flights, most - 1)), axis=1) * ends[:, None]
    handover[np.arange(most - 1)[None] >= (count - 1)[:, None]] = np.inf
    ordinal = np.zeros(rows, dtype=np.int64)
    for nth in range(most - 1):
        ordinal += truth.time >= np.sort(handover, axis=1)[truth.shot, nth]
    ids = np.argsort(random.uniform(size=(flights, SENSORS)), axis=1)[:, :most]

    sensor_of_row = truth.shot, ordinal  # index that turns an array (K, S) into one of the rows (N,)
    noise = np.zeros((flights, most))
    if config.position_noise[1] > 0.0:
        lowest, highest = np.log(config.position_noise)
        noise = np.exp(random.uniform(lowest, highest, size=(flights, most)))
    bias = random.normal(size=(3, flights, most)) * config.position_bias
    clock = random.normal(size=(flights, most)) * config.clock_offset
    towards = random.normal(size=(3, flights, most))
    height = random.uniform(2e6, 2e7, size=(flights, most))

    # The position at the jittered time is extrapolated along a straight line. The neglected g t^2 / 2 is centimetres
    # at steps of 1 s and metres at steps of 10 s.
    late = np.clip(random.normal(size=rows) * config.jitter, -0.4, 0.4) * step
    position = truth.position + late * truth.velocity
    satellite = _satellites(truth, start, towards, height)
    distance = np.linalg.norm(position - satellite[(slice(None), *sensor_of_row)], axis=0)
    position = position + bias[(slice(None), *sensor_of_row)] + random.normal(size=(3, rows)) * noise[sensor_of_row]
    outlier = random.random(rows) < config.outliers
    position += outlier * random.normal(size=(3, rows)) * 30.0 * np.maximum(noise[sensor_of_row], 20.0)
    flicker = 1.0 + random.normal(size=rows) * config.intensity_noise
    flash = np.where(random.random(rows) < config.outliers, np.exp(random.normal(size=rows) * 2.0), 1.0)
    intensity = truth.brightness / (distance / 1e6) ** 2 * np.maximum(flicker, 0.0) * flash
    latitude, longitude, altitude = pymap3d.ecef2geodetic(*position)
    altitude = np.clip(altitude, ALTITUDE.low, ALTITUDE.high)  # the range of a table of tracks

    arrives = random.random(rows) >= config.missing
    arrives &= ~_in_outage(truth, flights, ends, config, random)
    arrives[start] = True  # features are relative to the first row, so a track must begin with its launch
    arrives[start + 1] = True  # a track needs at least two rows
    delay = np.where(random.random(rows) < config.out_of_order, random.uniform(1.0, 5.0, size=rows) * step, 0.0)
    twice = arrives & (random.random(rows) < config.duplicates)
    arrived = np.concatenate([np.flatnonzero(arrives), np.flatnonzero(twice)])
    arrival = (truth.time + late + delay)[arrived]
    arrival[arrives.sum() :] += random.uniform(0.0, 3.0, size=int(twice.sum())) * step  # a duplicate arrives later
    arrived = arrived[np.lexsort((arrival, truth.shot[arrived]))]
    return Sightings(
        shot=truth.shot[arrived],
        time=(truth.time + late + clock[sensor_of_row])[arrived],
        sensor=ids[sensor_of_row][arrived],
        latitude=latitude[arrived],
        longitude=longitude[arrived],
        altitude=altitude[arrived],
        intensity=intensity[arrived],
        reentry_phase=truth.reentry_phase[arrived],
    )


def _satellites(truth: Truth, start: Int64, towards: Float64, height: Float64) -> Float64:
    """Return the positions of satellites near the vertical above the middle of their flights, (3, K, S), m."""
    middle = truth.position[:, (start + np.append(start[1:], len(truth.shot))) // 2]
    direction = middle / np.linalg.norm(middle, axis=0)
    direction = direction[:, :, None] + 0.3 * towards / np.linalg.norm(towards, axis=0)
    position: Float64 = direction / np.linalg.norm(direction, axis=0) * (EQUATOR + height)
    return position


def _in_outage(
    truth: Truth, flights: int, ends: Float64, config: SensorConfig, random: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Return whether each row falls into an outage, (N,)."""
    bursts = random.poisson(config.bursts, size=flights)
    outage = np.zeros(len(truth.shot), dtype=bool)
    for nth in range(int(bursts.max(initial=0))):
        begins = random.uniform(size=flights) * ends
        lasts = np.where(nth < bursts, random.uniform(*config.burst, size=flights), 0.0)
        since = truth.time - begins[truth.shot]
        outage |= (since >= 0.0) & (since < lasts[truth.shot])
    return outage
