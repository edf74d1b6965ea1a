"""Settings of the judge."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from client.connection import Endpoint
from reentry.errors import ConfigError
from reentry.runtime.arguments import require_between
from reentry.runtime.config_file import declared_types, read_settings

_NAMESPACE: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
_PROMETHEUS: Final = re.compile(r"https?://[^\s/?#]+(/[^\s?#]*)?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryLimits:
    """Limits and sample sizes of the checks: the table [canary] of a TOML file."""

    window: int = 300
    """Length of the period in which the canary is judged, s."""
    baseline: int = 1800
    """Length of the period that the stable release is judged by, s. It is longer than the window, so that a release
    whose traffic the canary has just taken over can still be compared."""
    interval: int = 15
    """Time between two judgements of `--wait`, s."""
    confidence: float = 0.95
    """One-sided confidence of each bound."""
    min_requests: int = 100
    """Fewest requests of each release for a verdict on errors and durations."""
    min_tracks: int = 200
    """Fewest tracks of each release for a verdict on drift and agreement."""
    error_margin: float = 0.01
    """Largest excess of the canary's error ratio over that of the stable release."""
    max_error_ratio: float = 0.05
    """Largest share of lost requests, as in the alert ReentryErrorRatio."""
    p99_ratio: float = 1.5
    """Largest ratio of the p99 of the canary to that of the stable release."""
    p99_floor: float = 0.05
    """p99 up to which a canary is fast enough, however fast the stable release is, s."""
    max_p99: float = 0.25
    """Largest p99, as in the alert ReentryLatencyHigh, s."""
    max_psi: float = 0.25
    """Largest population stability index of a feature that the network uses, as in the alert ReentryDrift."""
    min_agreement: float = 0.95
    """Smallest agreement of the two releases."""

    def __post_init__(self) -> None:
        require_between("window", self.window, 1, 86_400, unit="s")
        require_between("baseline", self.baseline, self.window, 864_000, unit="s")
        require_between("interval", self.interval, 1, 3_600, unit="s")
        require_between("confidence", self.confidence, 0.5, 0.9999)
        require_between("min_requests", self.min_requests, 1, 1_000_000_000)
        require_between("min_tracks", self.min_tracks, 1, 1_000_000_000)
        require_between("error_margin", self.error_margin, 0.0, 1.0)
        require_between("max_error_ratio", self.max_error_ratio, 0.0, 1.0)
        require_between("p99_ratio", self.p99_ratio, 1.0, 1_000.0)
        require_between("p99_floor", self.p99_floor, 0.0, 3_600.0, unit="s")
        require_between("max_p99", self.max_p99, self.p99_floor, 3_600.0, unit="s")
        require_between("max_psi", self.max_psi, 0.0, 1_000.0)
        require_between("min_agreement", self.min_agreement, 0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SameTracks:
    """Two servers that score the same tracks."""

    stable: str
    """Address of the stable release, grpc:// or http://."""
    canary: str
    """Address of the canary."""
    tracks: Path
    """File of tracks, CSV or Parquet."""

    def __post_init__(self) -> None:
        for url in (self.stable, self.canary):
            Endpoint.parse(url)


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeConfig:
    """Settings of `reentry canary judge`."""

    prometheus: str
    """Address of Prometheus, http:// or https://, with a path if it has one."""
    namespace: str = "reentry"
    """Namespace of both releases."""
    wait: int = 0
    """Longest time to wait for a verdict, s. 0 judges once."""
    same_tracks: SameTracks | None = None
    """Servers for the agreement; None to measure it by the shares of tracks with an onset."""
    limits: CanaryLimits = field(default_factory=CanaryLimits)

    def __post_init__(self) -> None:
        if not _PROMETHEUS.fullmatch(self.prometheus):
            raise ConfigError(
                "invalid address of Prometheus", expected="http://HOST:PORT or https://HOST", got=self.prometheus
            )
        if not _NAMESPACE.fullmatch(self.namespace):
            raise ConfigError("invalid namespace", expected="a name of Kubernetes", got=self.namespace)
        require_between("wait", self.wait, 0, 604_800, unit="s")
        if 0 < self.wait < self.limits.window:
            raise ConfigError(
                "the wait is shorter than the window, so that no canary could pass",
                expected=f"at least {self.limits.window} s",
                got=f"{self.wait} s",
                fix="give a longer --wait, or a shorter window in [canary]",
            )


def read_limits(path: Path | None) -> CanaryLimits:
    """Read the table [canary] of a TOML file; without a file all limits have their defaults.

    Raises:
        ConfigError: the file or a value is invalid.
    """
    values: dict[str, Any] = read_settings(path, {"canary": declared_types(CanaryLimits)})["canary"]
    return CanaryLimits(**values)
