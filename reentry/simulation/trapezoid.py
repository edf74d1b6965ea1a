"""The public data's flights: a straight ground track under a trapezoid of altitude, with Gaussian noise.

Shapes: K tracks of a chunk, N rows of all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from reentry.errors import ConfigError
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

TRACKS_PER_CHUNK: Final = 256
"""Some 230,000 rows: large enough for numpy, small enough for memory."""

ROWS_PER_CHUNK: Final = TRACKS_PER_CHUNK * 1200
"""At most, unless one track has more: of long tracks a chunk has fewer."""

LONGEST: Final = 100_000
"""Steps of the longest flight that can be asked for."""

BRIGHTEST_ALTITUDE: Final = 120_000.0
"""m. The intensity is the altitude over this."""

FLIGHT_RULE: Final = "flight"
"""Reentry begins at row int(0.85 n) of the n rows of a flight."""
DESCENT_RULE: Final = "descent"
"""Reentry begins at the first row below half the apogee."""
LABEL_RULES: Final = (FLIGHT_RULE, DESCENT_RULE)
"""Rules that the public labels may follow. Their onsets differ, by one row, for three lengths in ten."""

_LATEST: Final = float(TIMESTAMP.high or np.inf)
_HIGHEST_LATITUDE: Final = float(LATITUDE.high or np.inf) - 10.0
_HIGHEST_LONGITUDE: Final = float(LONGITUDE.high or np.inf) - 10.0
_ON_EARTH: Final = f"latitude within {_HIGHEST_LATITUDE:g} and longitude within {_HIGHEST_LONGITUDE:g} degrees"
_LARGEST_ID: Final = 2**53
"""A track's measurements are float64, which hold whole numbers to here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrapezoidConfig:
    """What the public files show of their generator."""

    tracks: int = 90
    """Flights; their track ids count up from 0."""
    seed: int = 0
    """The first tracks of a seed are the same however many are made."""
    labels: bool = True
    """Whether to give the column `reentry_phase`."""
    label_rule: str = FLIGHT_RULE
    """Where `reentry_phase` becomes 1, one of `LABEL_RULES`."""
    shortest: int = 600
    """Steps of the shortest flight; lengths are drawn evenly from here to `longest`, both included."""
    longest: int = 1200
    step: float = 0.5
    """s, 0.001 to 3600: a Unix time holds no finer one with room to spare."""
    lowest_apogee: float = 100_000.0
    """m; apogees are drawn evenly from here to `highest_apogee`."""
    highest_apogee: float = 120_000.0
    noise: float = 0.01
    """Standard deviation, in the unit of each measured column: degrees, degrees, m, 1."""
    launch_site: tuple[float, float] = (64.135, -21.895)
    """Latitude and longitude, degrees; ten degrees from the ends of their columns, so that noise stays within."""
    target: tuple[float, float] = (40.015, -105.27)
    """Latitude and longitude, degrees."""
    first_launch: float = 1_731_308_400.0
    """Unix time, s."""
    launch_interval: float = 600.0
    """s from one launch to the next."""
    sensor: int = 3
    """The one sensor's id."""

    def __post_init__(self) -> None:
        last_time = self.first_launch + self.launch_interval * self.tracks + min(self.longest, LONGEST) * self.step
        checks = {
            "tracks": (self.tracks >= 1, "at least 1", self.tracks),
            "seed": (self.seed >= 0, "at least 0", self.seed),
            "label_rule": (self.label_rule in LABEL_RULES, " or ".join(LABEL_RULES), self.label_rule),
            "shortest and longest": (
                10 <= self.shortest <= self.longest <= LONGEST,
                f"10 <= shortest <= longest <= {LONGEST}",
                f"{self.shortest} and {self.longest} steps",
            ),
            "step": (0.001 <= self.step <= 3600.0, "0.001 to 3600 s", self.step),
            "apogees": (
                1.0 <= self.lowest_apogee <= self.highest_apogee <= 1e7,
                "1 <= lowest_apogee <= highest_apogee <= 1e7",
                f"{self.lowest_apogee} and {self.highest_apogee} m",
            ),
            "noise": (0.0 <= self.noise <= 1.0, "0 to 1", self.noise),
            "launch_site": (_on_earth(self.launch_site), _ON_EARTH, self.launch_site),
            "target": (_on_earth(self.target), _ON_EARTH, self.target),
            "first_launch": (0.0 <= self.first_launch < np.inf, "at least 0 s", self.first_launch),
            "launch_interval": (
                self.launch_interval >= 0.0 and last_time <= _LATEST,
                f"at least 0 s, and the last flight over by {_LATEST:g} s",
                self.launch_interval,
            ),
            "sensor": (abs(self.sensor) <= _LARGEST_ID, f"-{_LARGEST_ID} to {_LARGEST_ID}", self.sensor),
        }
        for knob, (holds, expected, got) in checks.items():
            if not holds:
                raise ConfigError(f"{knob} out of range", expected=expected, got=str(got))


def simulate_trapezoid(config: TrapezoidConfig) -> pd.DataFrame:
    """All tracks of `config` in one table, columns as the public files have them."""
    return pd.concat(trapezoid_chunks(config), ignore_index=True)


def trapezoid_chunks(config: TrapezoidConfig) -> Iterator[pd.DataFrame]:
    """The same rows, some whole tracks at a time, so that memory does not grow with the file.

    They are `TRACKS_PER_CHUNK`, or fewer where they may be long.
    """
    lengths, apogees, noise = (np.random.default_rng(s) for s in np.random.SeedSequence(config.seed).spawn(3))
    at_once = max(1, min(TRACKS_PER_CHUNK, ROWS_PER_CHUNK // config.longest))
    for first in range(0, config.tracks, at_once):
        tracks = np.arange(first, min(first + at_once, config.tracks))
        yield _flights(
            config,
            tracks,
            lengths.integers(config.shortest, config.longest + 1, size=len(tracks), dtype=np.int64),
            apogees.uniform(config.lowest_apogee, config.highest_apogee, size=len(tracks)),
            noise,
        )


def _on_earth(site: tuple[float, float]) -> bool:
    latitude, longitude = site
    return abs(latitude) <= _HIGHEST_LATITUDE and abs(longitude) <= _HIGHEST_LONGITUDE


def onset_rows(lengths: npt.NDArray[np.int64], rule: str) -> npt.NDArray[np.int64]:
    """Row at which reentry begins in flights of these numbers of rows, by one of `LABEL_RULES`: (K,) -> (K,)."""
    if rule == FLIGHT_RULE:
        return lengths * 85 // 100
    descent_from = _descent(lengths)
    return descent_from + (lengths - descent_from + 1) // 2


# The public generator's int(.3 n), int(.4 n) and, above, int(.85 n), in whole numbers. The climb and the level part are
# rounded down one by one, so the descent may begin a row before int(.7 n).
def _climb(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Rows of the climb."""
    return lengths * 3 // 10


def _descent(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """First row of the descent, which repeats the apogee."""
    return _climb(lengths) + lengths * 4 // 10


def _flights(
    config: TrapezoidConfig,
    tracks: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    apogees: npt.NDArray[np.float64],
    noise: np.random.Generator,
) -> pd.DataFrame:
    """Rows of the flights `tracks` (K,), of `lengths` (K,) steps and `apogees` (K,) m."""
    ends = np.cumsum(lengths)
    of = np.repeat(np.arange(len(tracks)), lengths)  # (N,), which flight of the chunk a row is of
    step = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)  # (N,), from 0 in each flight

    climb, descent_from = _climb(lengths), _descent(lengths)
    onset = onset_rows(lengths, config.label_rule)
    last = lengths - 1
    climbed = step / (climb - 1)[of]
    to_descend = (last[of] - step) / (last - descent_from)[of]
    altitude = apogees[of] * np.minimum(np.minimum(climbed, 1.0), to_descend)
    flown = step / last[of]
    start, target = config.launch_site, config.target
    measured = noise.standard_normal((len(step), 4))
    measured *= config.noise
    measured[:, 0] += start[0] + (target[0] - start[0]) * flown
    measured[:, 1] += start[1] + (target[1] - start[1]) * flown
    measured[:, 2] += altitude
    measured[:, 3] += altitude / BRIGHTEST_ALTITUDE

    launched = config.first_launch + config.launch_interval * tracks
    columns = {
        TIMESTAMP.name: launched[of] + config.step * step,
        TRACK_ID.name: tracks[of],
        SENSOR_ID.name: np.full(len(step), config.sensor, dtype=np.int64),
        LATITUDE.name: measured[:, 0],
        LONGITUDE.name: measured[:, 1],
        ALTITUDE.name: measured[:, 2],
        RADIOMETRIC_INTENSITY.name: measured[:, 3],
    }
    if config.labels:
        columns[REENTRY_PHASE.name] = (step >= onset[of]).astype(np.int8)
    return pd.DataFrame(columns, copy=False)
