"""Settings of a replay of live tracks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from reentry.errors import ConfigError
from reentry.runtime.arguments import require_between
from reentry.schema import LARGEST_SCAN, REENTRY_SCAN, REENTRY_STREAM, Model

Mode = Literal["scan", "tracks"]
"""`scan`: each request has the measurements of all tracks of a feed; `tracks`: each request has one measurement."""

MODES: Final[tuple[Mode, ...]] = ("scan", "tracks")
CLOSED: Final = "max"
"""Text that stands for a closed loop in place of a rate."""

_TRACKS_IN_FLIGHT: Final = 64
"""Number of requests in flight in mode `tracks`: as many as the server joins into one run."""
_SCANS_IN_FLIGHT: Final = 2
"""Number of scans in flight for each feed: the server computes one while the next one travels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamConfig:
    """Settings of a replay."""

    mode: Mode = "scan"
    tracks: int = 5_000
    """Number of live tracks."""
    rate: float | None = 2.0
    """Measurements per second of each track; None for a closed loop, which finds the highest rate."""
    duration: float = 60.0
    """Duration of the measured part, s."""
    feeds: int = 1
    """Number of feeds, with one gRPC stream each, among which the tracks are divided."""
    in_flight: int | None = None
    """Number of requests in flight in a closed loop; None for the default of the mode."""
    seed: int = 0
    """Random seed of the simulated flights."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError("unknown mode", expected=" or ".join(MODES), got=repr(self.mode))
        require_between("tracks", self.tracks, 1, 1_000_000)
        require_between("feeds", self.feeds, 1, min(self.tracks, 256))
        if self.rate is not None:
            require_between("rate", self.rate, 0.001, 1e6, unit="Hz")
        require_between("duration", self.duration, 0.1, 86_400.0, unit="s")
        require_between("seed", self.seed, 0, 2**63 - 1)
        if self.in_flight is not None:
            if self.rate is not None:
                raise ConfigError(
                    "a number of requests in flight at a fixed rate",
                    expected=f"the rate {CLOSED}",
                    got=f"{self.rate:g} Hz",
                    fix=f"give --rate {CLOSED}, or leave --in-flight out",
                )
            require_between("requests in flight", self.in_flight, 1, 100_000)
        if self.mode == "scan" and -(-self.tracks // self.feeds) > LARGEST_SCAN:
            raise ConfigError(
                "too many tracks in one scan",
                expected=f"at most {LARGEST_SCAN:,} for each feed",
                got=f"{self.tracks:,} tracks in {self.feeds} feeds",
                fix="use more feeds",
            )

    @property
    def model(self) -> Model:
        """The model that gets the requests."""
        return REENTRY_SCAN if self.mode == "scan" else REENTRY_STREAM

    @property
    def sequences(self) -> int:
        """Number of sequences: one for each feed, or one for each track."""
        return self.feeds if self.mode == "scan" else self.tracks

    @property
    def limit(self) -> int:
        """Number of requests in flight in a closed loop."""
        default = _SCANS_IN_FLIGHT * self.feeds if self.mode == "scan" else _TRACKS_IN_FLIGHT
        return self.in_flight or default


def parse_rate(text: str) -> float | None:
    """Return a rate in Hz, or None for a closed loop.

    Raises:
        ConfigError: the text is neither a number nor `max`.
    """
    if text == CLOSED:
        return None
    try:
        return float(text)
    except ValueError:
        raise ConfigError("invalid rate", expected=f"a number of Hz, or {CLOSED}", got=repr(text)) from None
