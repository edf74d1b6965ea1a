"""A simulated flight profile, by its name, into a file."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
from reentry.simulation.trapezoid import FLIGHT_RULE, TrapezoidConfig, trapezoid_chunks
from reentry.tracks.write import write_tracks

MOST_TRACKS: Final = 1_000_000_000
"""Tracks of a file."""

_BY_FLAG: Final = ("tracks", "seed", "labels")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to simulate, whatever the profile."""

    tracks: int
    seed: int
    labels: bool
    severity: int
    """0 to 3, see `sensors.SEVERITIES`."""
    settings: dict[str, dict[str, Any]]
    """Tables of a settings file, of the profile."""
    processes: int


def _trapezoid(order: Order) -> Iterator[pd.DataFrame]:
    if order.severity:
        raise ConfigError("the profile trapezoid has no severity", got=str(order.severity), fix="--profile ballistic")
    config = TrapezoidConfig(
        tracks=order.tracks, seed=order.seed, labels=order.labels, **order.settings.get("trapezoid", {})
    )
    return trapezoid_chunks(config)


def _ballistic(order: Order) -> Iterator[pd.DataFrame]:
    config = BallisticConfig(
        tracks=order.tracks,
        seed=order.seed,
        labels=order.labels,
        shots=ShotConfig(**order.settings.get("shots", {})),
        sensors=of_severity(order.severity, **order.settings.get("sensors", {})),
        **order.settings.get("ballistic", {}),
    )
    return ballistic_chunks(config, processes=order.processes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A kind of flights."""

    chunks: Callable[[Order], Iterator[pd.DataFrame]]
    """Gives its tables of whole tracks; raises ConfigError at once for a setting out of its range."""
    settings: dict[str, dict[str, str]]
    """The tables, keys and types of its settings file."""


PROFILES: Final[dict[str, Profile]] = {
    "trapezoid": Profile(chunks=_trapezoid, settings={"trapezoid": declared_types(TrapezoidConfig, without=_BY_FLAG)}),
    "ballistic": Profile(
        chunks=_ballistic,
        settings={
            "ballistic": declared_types(BallisticConfig, without=(*_BY_FLAG, "shots", "sensors")),
            "shots": declared_types(ShotConfig),
            "sensors": declared_types(SensorConfig),
        },
    ),
}


def simulate_file(
    path: Path,
    *,
    profile: str = "trapezoid",
    tracks: int = 90,
    seed: int = 0,
    labels: bool = True,
    severity: int = 0,
    config: Path | None = None,
    processes: int | None = None,
) -> int:
    """Write simulated tracks to `path`, CSV or Parquet by its suffix, in bounded memory.

    A Parquet file says where it is from, see `reentry.tracks.origin_of`.

    Args:
        path: of the file.
        profile: one of `PROFILES`.
        tracks: how many.
        seed: the same one gives the same rows, whatever `processes`.
        labels: whether to give the column `reentry_phase`.
        severity: of the sensors' errors, 0 to 3; ballistic alone.
        config: a settings file, TOML, with the tables of the profile.
        processes: that simulate at once; all cores by default.

    Returns:
        The rows written.

    Raises:
        ConfigError: no such profile, or a setting out of its range; nothing is written.
        TrackFileError: the suffix is neither, or the file cannot be written.
    """
    if profile not in PROFILES:
        near = difflib.get_close_matches(profile, PROFILES, n=1)
        raise ConfigError(
            "no such profile",
            expected=" or ".join(PROFILES),
            got=repr(profile),
            fix=f"--profile {near[0] if near else next(iter(PROFILES))}",
        )
    require_between("tracks", tracks, 1, MOST_TRACKS)
    require_between("seed", seed, 0, 2**63 - 1)
    if processes is not None:
        require_between("processes", processes, 1, MOST_PROCESSES)
    kind = PROFILES[profile]
    settings = {name: table for name, table in read_settings(config, kind.settings).items() if table}
    order = Order(
        tracks=tracks,
        seed=seed,
        labels=labels,
        severity=severity,
        settings=settings,
        processes=processes or cores(),
    )
    origin = {"profile": profile, "severity": severity, "seed": seed, "tracks": tracks, "settings": settings}
    if profile == "trapezoid":
        origin["label_rule"] = settings.get("trapezoid", {}).get("label_rule", FLIGHT_RULE)
    rows = 0
    chunks = kind.chunks(order)
    with ended_by_signals(), progress("simulating", tracks, "tracks") as advance:

        def counted() -> Iterator[pd.DataFrame]:
            nonlocal rows
            for chunk in chunks:
                yield chunk
                rows += len(chunk)
                advance(chunk["track_id"].nunique())

        write_tracks(path, counted(), origin=origin)
    return rows
