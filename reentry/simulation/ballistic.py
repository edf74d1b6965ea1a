"""Ballistic missiles as sensors see them: boost, coast and reentry over a turning Earth.

Shapes: K shots of a chunk, N rows of all of them.
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
from reentry.runtime.pool import in_order
from reentry.schema import (
    ALTITUDE,
    LATITUDE,
    LONGITUDE,
    RADIOMETRIC_INTENSITY,
    REENTRY_PHASE,
    SENSOR_ID,
    TIMESTAMP,
    TRACK_ID,
)
from reentry.simulation import earth
from reentry.simulation.atmosphere import density
from reentry.simulation.flight import LONGEST, Flights, fly, launch
from reentry.simulation.sensors import SensorConfig, Sightings, Truth, observe
from reentry.simulation.shots import ShotConfig, Shots, draw_shots

Float64 = npt.NDArray[np.float64]

TRACKS_PER_CHUNK: Final = 512
"""Some 450,000 rows at 1 s: large enough for numpy, small enough for memory."""

ONSET_DRAG: Final = 0.1 * earth.STANDARD_GRAVITY
"""m/s^2. Reentry begins at the first step on descent at which drag decelerates by more."""

PLUME: Final = 3_000.0
"""Of the plume, where a body of size 1 at ambient temperature has 0.6; only the fastest reentries outshine it."""

WARM: Final = 1.4
"""Of a body as its boost ends, above ambient."""

AMBIENT: Final = 0.6

COOLING: Final = 200.0
"""s in which a body's warmth falls e-fold."""

HEATED: Final = 100.0
"""Of a body of size 1 at `HEATED_DENSITY` and `HEATED_SPEED`."""

HEATED_DENSITY: Final = 1e-4
"""kg/m^3."""

HEATED_SPEED: Final = 7_000.0
"""m/s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BallisticConfig:
    """Which shots, and how they are seen."""

    tracks: int = 90
    """Their track ids count up from 0."""
    seed: int = 0
    """The first tracks of a seed are the same, in whole chunks, however many are made."""
    labels: bool = True
    """Whether to give the column `reentry_phase`."""
    step: float = 1.0
    """s between measurements, before jitter; 0.05 to 10, since jitter moves a body along a straight line."""
    first_launch: float = 1_731_308_400.0
    """Unix time, s."""
    launch_interval: float = 600.0
    """s from one launch to the next."""
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
                f"at least 0 s, and the last flight over by {TIMESTAMP.high:g} s",
                self.launch_interval,
            ),
        }
        for knob, (holds, expected, got) in checks.items():
            if not holds:
                raise ConfigError(f"{knob} out of range", expected=expected, got=str(got))

    def _last_time(self) -> float:
        return self.first_launch + self.launch_interval * self.tracks + LONGEST


def simulate_ballistic(config: BallisticConfig) -> pd.DataFrame:
    """All tracks of `config` in one table, columns as the public files have them."""
    return pd.concat(ballistic_chunks(config), ignore_index=True)


def ballistic_chunks(config: BallisticConfig, *, processes: int = 1) -> Iterator[pd.DataFrame]:
    """The same rows, up to `TRACKS_PER_CHUNK` whole tracks at a time, so that memory does not grow with the file.

    They are the same whatever the number of processes; see `pool.in_order` for these.
    """
    return in_order(partial(_chunk, config), -(-config.tracks // TRACKS_PER_CHUNK), processes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flown:
    """The flights of one chunk as they are, before a sensor sees them."""

    first: int
    """Track id of the first."""
    shots: Shots
    flights: Flights


def flown(config: BallisticConfig) -> Iterator[Flown]:
    """What the tracks of `config` are made from, chunk by chunk: the truth behind their measurements."""
    for number in range(-(-config.tracks // TRACKS_PER_CHUNK)):
        yield _flown(config, number)[0]


def _flown(config: BallisticConfig, number: int) -> tuple[Flown, np.random.Generator]:
    """And what draws the errors of their sensors."""
    first = number * TRACKS_PER_CHUNK
    seed = np.random.SeedSequence(config.seed, spawn_key=(number,))
    drawing, seeing = (np.random.default_rng(part) for part in seed.spawn(2))
    shots = draw_shots(config.shots, min(TRACKS_PER_CHUNK, config.tracks - first), drawing)
    return Flown(first=first, shots=shots, flights=fly(launch(shots), config.step)), seeing


def _chunk(config: BallisticConfig, number: int) -> pd.DataFrame:
    chunk, seeing = _flown(config, number)
    flights, shots = chunk.flights, chunk.shots
    sightings = observe(
        Truth(
            shot=flights.shot,
            time=flights.time,
            position=earth.to_turning_axes(flights.position, flights.time),
            velocity=earth.to_turning_axes(flights.velocity - earth.turning(flights.position), flights.time),
            brightness=brightness(flights, shots),
            reentry_phase=reentry_phase(flights),
        ),
        config.sensors,
        step=config.step,
        random=seeing,
    )
    return _table(sightings, config, chunk.first)


def reentry_phase(flights: Flights) -> npt.NDArray[np.int8]:
    """(N,), 1 from the first row on descent at which drag decelerates by more than `ONSET_DRAG`."""
    falling = np.einsum("kn,kn->n", flights.position, flights.velocity) < 0.0
    begins = falling & ~flights.boosting & (flights.drag > ONSET_DRAG)
    begun = np.cumsum(begins)
    starts = np.flatnonzero(np.diff(flights.shot, prepend=-1))
    before = (begun - begins)[starts]  # of the flights before this one
    phase: npt.NDArray[np.int8] = (begun > np.repeat(before, np.diff(starts, append=len(begins)))).astype(np.int8)
    return phase


def brightness(flights: Flights, shots: Shots) -> Float64:
    """What a flight sends towards its sensors, relative, (N,); see the constants of this module for the scale.

    A plume in boost; a body that cools towards ambient by Newton's law; in the air the heat of the stagnation point,
    sqrt(density) * speed^3 (Sutton and Graves, 1971, NASA TR R-376, "A General Stagnation-Point Convective Heating
    Equation for Arbitrary Gas Mixtures"), all of which is taken to be sent on.
    """
    burnt_out = np.zeros(len(shots.latitude))
    np.maximum.at(burnt_out, flights.shot, np.where(flights.boosting, flights.time, 0.0))
    since = np.maximum(flights.time - burnt_out[flights.shot], 0.0)
    through_air = flights.velocity - earth.turning(flights.position)
    speed = np.sqrt(np.einsum("kn,kn->n", through_air, through_air))
    heat = HEATED * np.sqrt(density(flights.height) / HEATED_DENSITY) * (speed / HEATED_SPEED) ** 3
    body = AMBIENT + WARM * np.exp(-since / COOLING) + heat
    shine: Float64 = PLUME * flights.boosting + shots.brightness[flights.shot] * body
    return shine


def _table(seen: Sightings, config: BallisticConfig, first: int) -> pd.DataFrame:
    columns = {
        TIMESTAMP.name: config.first_launch + config.launch_interval * (first + seen.shot) + seen.time,
        TRACK_ID.name: first + seen.shot,
        SENSOR_ID.name: seen.sensor,
        LATITUDE.name: seen.latitude,
        LONGITUDE.name: seen.longitude,
        ALTITUDE.name: seen.altitude,
        RADIOMETRIC_INTENSITY.name: seen.intensity,
    }
    if config.labels:
        columns[REENTRY_PHASE.name] = seen.reentry_phase
    return pd.DataFrame(columns, copy=False)
