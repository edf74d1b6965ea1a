"""What sensors make of a flight: noise, biases, handover, lost and late measurements, outliers, clocks that differ.

Shapes: K flights, S sensors of each at most, N rows of the truth, M rows that arrive.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from reentry.errors import ConfigError
from reentry.schema import ALTITUDE
from reentry.simulation.earth import EQUATOR

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

SENSORS: Final = 32
"""Sensors of the whole network; each flight is seen by some of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorConfig:
    """Each way in which a sensor errs; as it stands, none: one sensor that sees everything as it is."""

    sensors: tuple[int, int] = (1, 1)
    """Fewest and most of a flight; they see it one after the other and hand it over at an instant drawn for each."""
    position_noise: tuple[float, float] = (0.0, 0.0)
    """m, lowest and highest standard deviation along each axis; one is drawn for each sensor of a flight."""
    position_bias: float = 0.0
    """m, standard deviation along each axis of what a sensor is off by all through a flight."""
    intensity_noise: float = 0.0
    """Standard deviation as a share of the intensity."""
    jitter: float = 0.0
    """Standard deviation of a measurement's instant as a share of the step; cut off at 0.4."""
    missing: float = 0.0
    """Share of the measurements that never arrive."""
    bursts: float = 0.0
    """Mean number, for each flight, of silences of `burst` s."""
    burst: tuple[float, float] = (5.0, 20.0)
    """s, shortest and longest silence."""
    outliers: float = 0.0
    """Share of the measurements whose position, and as many whose intensity, is far off."""
    duplicates: float = 0.0
    """Share of the measurements that arrive twice."""
    out_of_order: float = 0.0
    """Share of the measurements that arrive after later ones."""
    clock_offset: float = 0.0
    """s, standard deviation of what a sensor's clock is off by."""

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
            "position_bias": (0.0 <= self.position_bias <= 1e5, "0 to 1e5 m", self.position_bias),
            "intensity_noise": (0.0 <= self.intensity_noise <= 1.0, "0 to 1", self.intensity_noise),
            "jitter": (0.0 <= self.jitter <= 1.0, "0 to 1", self.jitter),
            "bursts": (0.0 <= self.bursts <= 100.0, "0 to 100", self.bursts),
            "burst": (
                0.0 < shortest <= longest <= 600.0,
                "0 < shortest <= longest <= 600 s",
                f"{shortest:g}, {longest:g}",
            ),
            "clock_offset": (0.0 <= self.clock_offset <= 60.0, "0 to 60 s", self.clock_offset),
        }
        for name in ("missing", "outliers", "duplicates", "out_of_order"):
            share = getattr(self, name)
            checks[name] = (0.0 <= share <= 0.5, "a share, 0 to 0.5", share)
        for knob, (holds, expected, got) in checks.items():
            if not holds:
                raise ConfigError(f"{knob} out of range", expected=expected, got=str(got))


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
"""What `--severity` 0, 1, 2 and 3 set: no errors, good sensors, ordinary ones, poor ones."""


def of_severity(severity: int, **knobs: Any) -> SensorConfig:
    """The knobs of a severity, some of them overruled.

    Raises:
        ConfigError: no such severity or knob, or a knob out of its range.
    """
    if not 0 <= severity < len(SEVERITIES):
        raise ConfigError("severity out of range", expected=f"0 to {len(SEVERITIES) - 1}", got=str(severity))
    known = {field.name for field in fields(SensorConfig)}
    if unknown := sorted(set(knobs) - known):
        raise ConfigError("no such knob", expected=", ".join(sorted(known)), got=", ".join(unknown))
    return replace(SEVERITIES[severity], **knobs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """Flights as they are, a row each step, flight by flight, by time."""

    shot: Int64
    """(N,), from 0, each at least once."""
    time: Float64
    """(N,), s since the launch."""
    position: Float64
    """(3, N), m, ECEF."""
    velocity: Float64
    """(3, N), m/s, ECEF."""
    brightness: Float64
    """(N,)."""
    reentry_phase: npt.NDArray[np.int8]
    """(N,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sightings:
    """Measurements as they arrive, flight by flight, (M,) each."""

    shot: Int64
    time: Float64
    """s since the launch, by the sensor's clock."""
    sensor: Int64
    latitude: Float64
    """Degrees."""
    longitude: Float64
    altitude: Float64
    """m over the ellipsoid."""
    intensity: Float64
    reentry_phase: npt.NDArray[np.int8]


def observe(truth: Truth, config: SensorConfig, *, step: float, random: np.random.Generator) -> Sightings:
    """Measure flights; `step` is the time between rows of the truth, s."""
    import pymap3d

    rows = len(truth.shot)
    flights = int(truth.shot[-1]) + 1
    start = np.flatnonzero(np.diff(truth.shot, prepend=-1))
    ends = truth.time[np.append(start[1:], rows) - 1]
    most = config.sensors[1]

    # Who sees which row: handovers are drawn over the flight, and cut it among the flight's sensors.
    count = random.integers(config.sensors[0], most, size=flights, endpoint=True)
    handover = np.sort(random.uniform(size=(flights, most - 1)), axis=1) * ends[:, None]
    handover[np.arange(most - 1)[None] >= (count - 1)[:, None]] = np.inf
    turn = np.zeros(rows, dtype=np.int64)
    for nth in range(most - 1):
        turn += truth.time >= np.sort(handover, axis=1)[truth.shot, nth]
    ids = np.argsort(random.uniform(size=(flights, SENSORS)), axis=1)[:, :most]

    of_sensor = truth.shot, turn
    noise = np.zeros((flights, most))
    if config.position_noise[1] > 0.0:
        lowest, highest = np.log(config.position_noise)
        noise = np.exp(random.uniform(lowest, highest, size=(flights, most)))
    bias = random.normal(size=(3, flights, most)) * config.position_bias
    clock = random.normal(size=(flights, most)) * config.clock_offset
    towards = random.normal(size=(3, flights, most))
    away = random.uniform(2e6, 2e7, size=(flights, most))

    # The body moves while a measurement is early or late; a parabola would add g t^2 / 2: centimetres at steps of 1 s,
    # metres at 10 s.
    late = np.clip(random.normal(size=rows) * config.jitter, -0.4, 0.4) * step
    position = truth.position + late * truth.velocity
    sensor_place = _over_the_flight(truth, start, towards, away)
    distance = np.linalg.norm(position - sensor_place[(slice(None), *of_sensor)], axis=0)
    position = position + bias[(slice(None), *of_sensor)] + random.normal(size=(3, rows)) * noise[of_sensor]
    off = random.random(rows) < config.outliers
    position += off * random.normal(size=(3, rows)) * 30.0 * np.maximum(noise[of_sensor], 20.0)
    flicker = 1.0 + random.normal(size=rows) * config.intensity_noise
    flash = np.where(random.random(rows) < config.outliers, np.exp(random.normal(size=rows) * 2.0), 1.0)
    intensity = truth.brightness / (distance / 1e6) ** 2 * np.maximum(flicker, 0.0) * flash
    latitude, longitude, altitude = pymap3d.ecef2geodetic(*position)
    altitude = np.clip(altitude, ALTITUDE.low, ALTITUDE.high)  # as far off as a table of tracks can hold

    arrives = random.random(rows) >= config.missing
    arrives &= ~_silent(truth, flights, ends, config, random)
    arrives[start] = True  # a track begins with its launch, else its features would start from elsewhere
    arrives[start + 1] = True  # and two rows are the least that a track can be of
    delay = np.where(random.random(rows) < config.out_of_order, random.uniform(1.0, 5.0, size=rows) * step, 0.0)
    twice = arrives & (random.random(rows) < config.duplicates)
    arrived = np.concatenate([np.flatnonzero(arrives), np.flatnonzero(twice)])
    when = (truth.time + late + delay)[arrived]
    when[arrives.sum() :] += random.uniform(0.0, 3.0, size=int(twice.sum())) * step  # a copy comes later
    arrived = arrived[np.lexsort((when, truth.shot[arrived]))]
    return Sightings(
        shot=truth.shot[arrived],
        time=(truth.time + late + clock[of_sensor])[arrived],
        sensor=ids[of_sensor][arrived],
        latitude=latitude[arrived],
        longitude=longitude[arrived],
        altitude=altitude[arrived],
        intensity=intensity[arrived],
        reentry_phase=truth.reentry_phase[arrived],
    )


def _over_the_flight(truth: Truth, start: Int64, towards: Float64, away: Float64) -> Float64:
    """Places of satellites that look down on the middle of their flights, (3, K, S) m."""
    middle = truth.position[:, (start + np.append(start[1:], len(truth.shot))) // 2]
    direction = middle / np.linalg.norm(middle, axis=0)
    direction = direction[:, :, None] + 0.3 * towards / np.linalg.norm(towards, axis=0)
    place: Float64 = direction / np.linalg.norm(direction, axis=0) * (EQUATOR + away)
    return place


def _silent(
    truth: Truth, flights: int, ends: Float64, config: SensorConfig, random: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """(N,), rows that fall into a silence."""
    bursts = random.poisson(config.bursts, size=flights)
    silent = np.zeros(len(truth.shot), dtype=bool)
    for nth in range(int(bursts.max(initial=0))):
        begins = random.uniform(size=flights) * ends
        lasts = np.where(nth < bursts, random.uniform(*config.burst, size=flights), 0.0)
        since = truth.time - begins[truth.shot]
        silent |= (since >= 0.0) & (since < lasts[truth.shot])
    return silent
