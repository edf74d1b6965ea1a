"""Ballistic flights over a rotating Earth, through boost, coast and reentry, as sensors measure them.

Shapes: K shots of a chunk, N rows of their flights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from reentry.errors import ConfigError
from reentry.features.orbit_posterior import ONSET_DRAG
from reentry.runtime.pool import in_order
from reentry.schema import REENTRY_PHASE, TIMESTAMP, TRACK_COLUMNS
from reentry.simulation import earth
from reentry.simulation.atmosphere import density
from reentry.simulation.flight import LONGEST_FLIGHT, Flights, fly, launch
from reentry.simulation.sensors import SensorConfig, Sightings, Truth, observe
from reentry.simulation.shots import ShotConfig, Shots, draw_shots

Float64 = npt.NDArray[np.float64]

TRACKS_PER_CHUNK: Final = 512
"""Number of tracks simulated at once: about 450,000 rows at steps of 1 s, which is fast and fits in memory."""

PLUME: Final = 3_000.0
"""Relative brightness of the plume during boost; only the fastest reentries are brighter."""

AMBIENT: Final = 0.6
"""Relative brightness of a body of size 1 at ambient temperature."""

WARM: Final = 1.4
"""Additional relative brightness of a body of size 1 when its boost ends."""

COOLING: Final = 200.0
"""Time constant of the cooling after boost, s."""

HEATED: Final = 100.0
"""Additional relative brightness of a body of size 1 in air of `HEATED_DENSITY` at `HEATED_SPEED`."""

HEATED_DENSITY: Final = 1e-4
"""Reference air density, kg/m^3."""

HEATED_SPEED: Final = 7_000.0
"""Reference speed relative to the air, m/s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BallisticConfig:
    """Settings of the ballistic profile."""

    tracks: int = 90
    """Number of tracks; their ids start from 0."""
    seed: int = 0
    """Random seed. Simulating more tracks adds chunks but leaves earlier complete chunks unchanged."""
    labels: bool = True
    """Whether to add the column `reentry_phase`."""
    step: float = 1.0
    """Time between measurements before jitter, s; 0.05 to 10, because jitter moves a body along a straight line."""
    first_launch: float = 1_731_308_400.0
    """Unix time of the first launch, s."""
    launch_interval: float = 600.0
    """Time between launches, s."""
    shots: ShotConfig = field(default_factory=ShotConfig)
    sensors: SensorConfig = field(default_factory=SensorConfig)

    def __post_init__(self) -> None:
        checks = {
            "tracks": (self.tracks >= 1, "at least 1", self.tracks),
            "seed": (self.seed >= 0, "at least 0", self.seed),
            "step": (0.05 <= self.step <= 10.0, "0.05 to 10 s", self.step),
            "first_launch": (0.0 <= self.first_launch < np.inf, "at least 0 s", self.first_launch),
            "launch_interval": (
                self.launch_interval >= 0.0 and self._last_time() <= float(TIMESTAMP.high or np.inf),
                f"at least 0 s, and the last flight ended by {TIMESTAMP.high:g} s",
                self.launch_interval,
            ),
        }
        for name, (valid, expected, got) in checks.items():
            if not valid:
                raise ConfigError(f"{name} out of range", expected=expected, got=str(got))

    def _last_time(self) -> float:
        return self.first_launch + self.launch_interval * self.tracks + LONGEST_FLIGHT


def simulate_ballistic(config: BallisticConfig) -> pd.DataFrame:
    """Return all tracks of `config` as one table in the column order of the public files."""
    return pd.concat(ballistic_chunks(config), ignore_index=True)


def ballistic_chunks(config: BallisticConfig, *, processes: int = 1) -> Iterator[pd.DataFrame]:
    """Yield the tracks of `config` in tables of up to `TRACKS_PER_CHUNK` whole tracks, in bounded memory.

    The rows do not depend on the number of processes, which `pool.in_order` starts.
    """
    return in_order(partial(_chunk, config), -(-config.tracks // TRACKS_PER_CHUNK), processes)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrueFlights:
    """The true flights of one chunk, before sensors measure them."""

    first: int
    """Track id of the first flight."""
    shots: Shots
    flights: Flights


def true_flights(config: BallisticConfig) -> Iterator[TrueFlights]:
    """Yield the true flights behind the tracks of `config`, chunk by chunk."""
    for number in range(-(-config.tracks // TRACKS_PER_CHUNK)):
        yield _true_flights(config, number)[0]


def _true_flights(config: BallisticConfig, number: int) -> tuple[TrueFlights, np.random.Generator]:
    """Return the true flights of a chunk, and the random generator for the errors of their sensors."""
    first = number * TRACKS_PER_CHUNK
    seed = np.random.SeedSequence(config.seed, spawn_key=(number,))
    shot_random, sensor_random = (np.random.default_rng(child) for child in seed.spawn(2))
    shots = draw_shots(config.shots, min(TRACKS_PER_CHUNK, config.tracks - first), shot_random)
    return TrueFlights(first=first, shots=shots, flights=fly(launch(shots), config.step)), sensor_random


def _chunk(config: BallisticConfig, number: int) -> pd.DataFrame:
    chunk, random = _true_flights(config, number)
    flights, shots = chunk.flights, chunk.shots
    sightings = observe(
        Truth(
            shot=flights.shot,
            time=flights.time,
            position=earth.to_ecef(flights.position, flights.time),
            velocity=earth.to_ecef(earth.velocity_through_air(flights.position, flights.velocity), flights.time),
            brightness=brightness(flights, shots),
            reentry_phase=reentry_phase(flights),
        ),
        config.sensors,
        step=config.step,
        random=random,
    )
    return _table(sightings, config, chunk.first)


def reentry_phase(flights: Flights) -> npt.NDArray[np.int8]:
    """Return the labels, (N,): 1 from the first descending row whose drag exceeds `ONSET_DRAG`, otherwise 0."""
    falling = np.einsum("kn,kn->n", flights.position, flights.velocity) < 0.0
    reentering = falling & ~flights.boosting & (flights.drag > ONSET_DRAG)
    count = np.cumsum(reentering)
    starts = np.flatnonzero(np.diff(flights.shot, prepend=-1))
    earlier_flights = np.repeat((count - reentering)[starts], np.diff(starts, append=len(count)))
    phase: npt.NDArray[np.int8] = (count > earlier_flights).astype(np.int8)
    return phase


def brightness(flights: Flights, shots: Shots) -> Float64:
    """Return the relative brightness of each row, (N,), on the scale of the constants of this module.

    It is the sum of three sources. During boost there is the plume. After boost the body cools towards ambient
    temperature by Newton's law. In the air the body radiates the heat of its stagnation point, sqrt(density) * speed^3
    (Sutton and Graves, 1971, NASA TR R-376, "A General Stagnation-Point Convective Heating Equation for Arbitrary Gas
    Mixtures").
    """
    burnout = np.zeros(len(shots.latitude))
    np.maximum.at(burnout, flights.shot, np.where(flights.boosting, flights.time, 0.0))
    coasting = np.maximum(flights.time - burnout[flights.shot], 0.0)
    through_air = earth.velocity_through_air(flights.position, flights.velocity)
    speed = np.sqrt(np.einsum("kn,kn->n", through_air, through_air))
    heat = HEATED * np.sqrt(density(flights.height) / HEATED_DENSITY) * (speed / HEATED_SPEED) ** 3
    body = AMBIENT + WARM * np.exp(-coasting / COOLING) + heat
    total: Float64 = PLUME * flights.boosting + shots.brightness[flights.shot] * body
    return total


def _table(seen: Sightings, config: BallisticConfig, first: int) -> pd.DataFrame:
    track_id = first + seen.shot
    time = config.first_launch + config.launch_interval * track_id + seen.time
    cells = (time, track_id, seen.sensor, seen.latitude, seen.longitude, seen.altitude, seen.intensity)
    columns = {column.name: values for column, values in zip(TRACK_COLUMNS, cells, strict=True)}
    if config.labels:
        columns[REENTRY_PHASE.name] = seen.reentry_phase
    return pd.DataFrame(columns, copy=False)
