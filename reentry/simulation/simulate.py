"""A simulated flight profile, by its name, into a file."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pandas as pd

from reentry.errors import ConfigError
from reentry.progress import progress
from reentry.simulation.ballistic import BallisticConfig, ballistic_chunks
from reentry.simulation.trapezoid import TrapezoidConfig, trapezoid_chunks
from reentry.tracks.write import write_tracks


def _trapezoid(tracks: int, seed: int, labels: bool) -> Iterator[pd.DataFrame]:
    return trapezoid_chunks(TrapezoidConfig(tracks=tracks, seed=seed, labels=labels))


def _ballistic(tracks: int, seed: int, labels: bool) -> Iterator[pd.DataFrame]:
    return ballistic_chunks(BallisticConfig(tracks=tracks, seed=seed, labels=labels))


PROFILES: Final[dict[str, Callable[[int, int, bool], Iterator[pd.DataFrame]]]] = {
    "trapezoid": _trapezoid,
    "ballistic": _ballistic,
}
"""Each profile gives its tables of whole tracks from the number of tracks, the seed, and whether to label."""


def simulate_file(
    path: Path, *, profile: str = "trapezoid", tracks: int = 90, seed: int = 0, labels: bool = True
) -> int:
    """Write simulated tracks to `path`, CSV or Parquet by its suffix, in bounded memory.

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
    rows = 0
    with progress("simulating", tracks, "tracks") as advance:

        def counted(chunks: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
            nonlocal rows
            for chunk in chunks:
                yield chunk
                rows += len(chunk)
                advance(chunk["track_id"].nunique())

        write_tracks(path, counted(PROFILES[profile](tracks, seed, labels)))
    return rows
