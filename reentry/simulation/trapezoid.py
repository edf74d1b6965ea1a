"""Flights like those of the public data: a straight ground track, a trapezoidal altitude profile and Gaussian noise.

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
from reentry.schema import LATITUDE, LONGEST_TRACK, LONGITUDE, REENTRY_PHASE, TIMESTAMP, TRACK_COLUMNS

TRACKS_PER_CHUNK: Final = 256
"""Number of tracks simulated at once: about 230,000 rows, which is fast and fits in memory."""

ROWS_PER_CHUNK: Final = TRACKS_PER_CHUNK * 1200
"""Maximum number of rows in a chunk of several tracks; chunks of long tracks have fewer tracks."""

BRIGHTEST_ALTITUDE: Final = 120_000.0
"""Altitude at which the intensity is 1, m; the intensity is proportional to the altitude."""

FLIGHT_RULE: Final = "flight"
"""Name of the label rule by which reentry begins at row int(0.85 n) of the n rows of a flight."""
DESCENT_RULE: Final = "descent"
"""Name of the label rule by which reentry begins at the first row below half the apogee."""
LABEL_RULES: Final = (FLIGHT_RULE, DESCENT_RULE)
"""Rules that the public labels may follow. Their onsets differ by one row for three in ten flight lengths."""

_LATEST: Final = float(TIMESTAMP.high or np.inf)
_HIGHEST_LATITUDE: Final = float(LATITUDE.high or np.inf) - 10.0
_HIGHEST_LONGITUDE: Final = float(LONGITUDE.high or np.inf) - 10.0
_ON_EARTH: Final = f"latitude within {_HIGHEST_LATITUDE:g} and longitude within {_HIGHEST_LONGITUDE:g} degrees"
_LARGEST_ID: Final = 2**53
"""Largest sensor id: measurements are float64, which is exact for integers up to this value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrapezoidConfig:
    """Settings of the trapezoid profile; the defaults reproduce the public files."""

    tracks: int = 90
    """Number of tracks; their ids start from 0."""
    seed: int = 0
    """Random seed. The first tracks do not depend on the number of tracks."""
    labels: bool = True
    """Whether to add the column `reentry_phase`."""
    label_rule: str = FLIGHT_RULE
    """Rule for the onset of `reentry_phase`, one of `LABEL_RULES`."""
    shortest: int = 600
    """Minimum number of steps of a flight; the number is uniform from `shortest` to `longest`, both included."""
    longest: int = 1200
    """Maximum number of steps of a flight."""
    step: float = 0.5
    """Time between steps, s; 0.001 to 3600. Unix time in float64 cannot resolve much shorter steps."""
    lowest_apogee: float = 100_000.0
    """Lowest apogee, m; apogees are uniform from `lowest_apogee` to `highest_apogee`."""
    highest_apogee: float = 120_000.0
    """Highest apogee, m."""
    noise: float = 0.01
    """Standard deviation of the noise of each measurement, in its own unit: degrees, degrees, m, 1."""
    launch_site: tuple[float, float] = (64.135, -21.895)
    """Latitude and longitude, degrees; 10 degrees inside the valid range, so that noise cannot leave it."""
    target: tuple[float, float] = (40.015, -105.27)
    """Latitude and longitude, degrees."""
    first_launch: float = 1_731_308_400.0
    """Unix time of the first launch, s."""
    launch_interval: float = 600.0
    """Time between launches, s."""
    sensor: int = 3
    """Id of the only sensor."""

    def __post_init__(self) -> None:
        last_time = (
            self.first_launch + self.launch_interval * self.tracks + min(self.longest, LONGEST_TRACK) * self.step
        )
        checks = {
            "tracks": (self.tracks >= 1, "at least 1", self.tracks),
            "seed": (self.seed >= 0, "at least 0", self.seed),
            "label_rule": (self.label_rule in LABEL_RULES, " or ".join(LABEL_RULES), self.label_rule),
            "shortest and longest": (
                10 <= self.shortest <= self.longest <= LONGEST_TRACK,
                f"10 <= shortest <= longest <= {LONGEST_TRACK}",
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
                f"at least 0 s, and the last flight ended by {_LATEST:g} s",
                self.launch_interval,
            ),
            "sensor": (abs(self.sensor) <= _LARGEST_ID, f"-{_LARGEST_ID} to {_LARGEST_ID}", self.sensor),
        }
        for name, (valid, expected, got) in checks.items():
            if not valid:
                raise ConfigError(f"{name} out of range", expected=expected, got=str(got))


def simulate_trapezoid(config: TrapezoidConfig) -> pd.DataFrame:
    """Return all tracks of `config` as one table in the column order of the public files."""
    return pd.concat(trapezoid_chunks(config), ignore_index=True)


def trapezoid_chunks(config: TrapezoidConfig) -> Iterator[pd.DataFrame]:
    """Yield the tracks of `config` in tables of whole tracks, in bounded memory.

    A table has `TRACKS_PER_CHUNK` tracks, or fewer if the tracks can be long.
    """
    lengths, apogees, noise = (np.random.default_rng(s) for s in np.random.SeedSequence(config.seed).spawn(3))
    chunk_size = max(1, min(TRACKS_PER_CHUNK, ROWS_PER_CHUNK // config.longest))
    for first in range(0, config.tracks, chunk_size):
        tracks = np.arange(first, min(first + chunk_size, config.tracks))
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
    """Return the first row of reentry, (K,), in flights with `lengths` rows, (K,), by one of `LABEL_RULES`."""
    if rule == FLIGHT_RULE:
        return lengths * 85 // 100
    descent = _descent(lengths)
    return descent + (lengths - descent + 1) // 2


# The public generator computes int(0.3 n), int(0.4 n) and int(0.85 n); these functions do so in integer arithmetic. The
# climb and the level part are rounded down separately, so the descent can begin one row before int(0.7 n).
def _climb(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the number of rows of the climb."""
    return lengths * 3 // 10


def _descent(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the first row of the descent, which repeats the apogee."""
    return _climb(lengths) + lengths * 4 // 10


def _flights(
    config: TrapezoidConfig,
    tracks: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    apogees: npt.NDArray[np.float64],
    noise: np.random.Generator,
) -> pd.DataFrame:
    """Return the rows of the flights with the given track ids (K,), numbers of steps (K,) and apogees (K,), m."""
    ends = np.cumsum(lengths)
    flight = np.repeat(np.arange(len(tracks)), lengths)  # (N,), index of each row's flight
    step = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)  # (N,), from 0 in each flight

    climb, descent = _climb(lengths), _descent(lengths)
    last = lengths - 1
    climbed = step / (climb - 1)[flight]
    to_descend = (last[flight] - step) / (last - descent)[flight]
    altitude = apogees[flight] * np.minimum(np.minimum(climbed, 1.0), to_descend)
    progress = step / last[flight]
    start, target = config.launch_site, config.target
    measured = noise.standard_normal((len(step), 4))
    measured *= config.noise
    measured[:, 0] += start[0] + (target[0] - start[0]) * progress
    measured[:, 1] += start[1] + (target[1] - start[1]) * progress
    measured[:, 2] += altitude
    measured[:, 3] += altitude / BRIGHTEST_ALTITUDE

    launched = config.first_launch + config.launch_interval * tracks
    sensor = np.full(len(step), config.sensor, dtype=np.int64)
    cells = (launched[flight] + config.step * step, tracks[flight], sensor, *measured.T)
    columns = {column.name: values for column, values in zip(TRACK_COLUMNS, cells, strict=True)}
    if config.labels:
        columns[REENTRY_PHASE.name] = (step >= onset_rows(lengths, config.label_rule)[flight]).astype(np.int8)
    return pd.DataFrame(columns, copy=False)
