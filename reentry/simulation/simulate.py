"""Simulation of a file of tracks by one of the flight profiles."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pandas as pd

from reentry.errors import ConfigError
from reentry.runtime.arguments import require_between
from reentry.runtime.config_file import declared_types, read_settings
from reentry.runtime.cores import cores
from reentry.runtime.pool import MOST_PROCESSES
from reentry.runtime.progress import progress
from reentry.runtime.signals import ended_by_signals
from reentry.simulation.ballistic import BallisticConfig, ballistic_chunks
from reentry.simulation.sensors import SensorConfig, of_severity
from reentry.simulation.shots import ShotConfig
from reentry.simulation.trapezoid import TrapezoidConfig, trapezoid_chunks
from reentry.tracks.write import write_tracks

MOST_TRACKS: Final = 1_000_000_000
"""Maximum number of tracks in a file."""

_FLAGS: Final = ("tracks", "seed", "labels")
"""Settings that command-line flags set, and the settings file must not."""

PROFILES: Final[dict[str, dict[str, dict[str, str]]]] = {
    "trapezoid": {"trapezoid": declared_types(TrapezoidConfig, without=_FLAGS)},
    "ballistic": {
        "ballistic": declared_types(BallisticConfig, without=(*_FLAGS, "shots", "sensors")),
        "shots": declared_types(ShotConfig),
        "sensors": declared_types(SensorConfig),
    },
}
"""Tables, keys and types of the settings file of each profile."""


def simulate_file(
    path: Path,
    *,
    profile: str = "trapezoid",
    tracks: int = 90,
    seed: int = 0,
    labels: bool = True,
    severity: int = 0,
    first_track_id: int = 0,
    config: Path | None = None,
    processes: int | None = None,
) -> int:
    """Simulate tracks and write them to a CSV or Parquet file, in bounded memory.

    A Parquet file records how it was simulated, see `reentry.tracks.origin_of`.

    Args:
        path: Path of the file, whose suffix selects the format.
        profile: Name of the flight profile, one of `PROFILES`.
        tracks: Number of tracks.
        seed: Random seed; the rows depend on it, but not on `processes`.
        labels: Whether to add the column `reentry_phase`.
        severity: Severity of the sensor errors, 0 to 3; only for the ballistic profile.
        first_track_id: Id of the first track; the others count up from it.
        config: Settings file in TOML with the tables of the profile.
        processes: Number of parallel processes; the number of cores by default.

    Returns:
        Number of rows written.

    Raises:
        ConfigError: The profile is unknown, or a setting is out of range; no file is written.
        TrackFileError: The suffix is not supported, or the file cannot be written.
    """
    if profile not in PROFILES:
        similar = difflib.get_close_matches(profile, PROFILES, n=1)
        raise ConfigError(
            "no such profile",
            expected=" or ".join(PROFILES),
            got=repr(profile),
            fix=f"--profile {similar[0] if similar else next(iter(PROFILES))}",
        )
    require_between("tracks", tracks, 1, MOST_TRACKS)
    require_between("seed", seed, 0, 2**63 - 1)
    require_between("first track id", first_track_id, 0, 2**62)
    if processes is not None:
        require_between("processes", processes, 1, MOST_PROCESSES)
    settings = {name: table for name, table in read_settings(config, PROFILES[profile]).items() if table}
    origin = {"profile": profile, "severity": severity, "seed": seed, "tracks": tracks, "settings": settings}
    flags: dict[str, Any] = {"tracks": tracks, "seed": seed, "labels": labels}
    if profile == "trapezoid":
        if severity:
            problem = "the profile trapezoid has no severity"
            raise ConfigError(problem, got=str(severity), fix="--profile ballistic")
        trapezoid = TrapezoidConfig(**flags, **settings.get("trapezoid", {}))
        origin["label_rule"] = trapezoid.label_rule
        chunks = trapezoid_chunks(trapezoid)
    else:
        ballistic = BallisticConfig(
            **flags,
            shots=ShotConfig(**settings.get("shots", {})),
            sensors=of_severity(severity, **settings.get("sensors", {})),
            **settings.get("ballistic", {}),
        )
        chunks = ballistic_chunks(ballistic, processes=processes or cores())
    rows = 0
    with ended_by_signals(), progress("simulating", tracks, "tracks") as advance:

        def counted() -> Iterator[pd.DataFrame]:
            nonlocal rows
            for chunk in chunks:
                yield chunk.assign(track_id=chunk["track_id"] + first_track_id) if first_track_id else chunk
                rows += len(chunk)
                advance(chunk["track_id"].nunique())

        write_tracks(path, counted(), origin=origin)
    return rows
