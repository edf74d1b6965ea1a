"""Settings and results of a comparison."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reentry.errors import ConfigError
from reentry.runtime.arguments import require_between
from reentry.runtime.cores import cores


@dataclass(frozen=True, slots=True, kw_only=True)
class PeersConfig:
    """Settings of a comparison."""

    repository: Path = Path("model_repository")
    """Model repository with an exported version."""
    checkpoint: Path = Path("artifacts/train/model.ckpt")
    """Checkpoint that the version was exported from, for PyTorch."""
    environments: Path = Path("artifacts/peers/environments")
    """Folder in which the virtual environments are kept."""
    only: tuple[str, ...] = ()
    """Names of the servers to measure; empty for all."""
    connections: int = 8
    """Number of kept-alive connections, and so of requests in flight."""
    rounds: int = 3
    """Number of rounds. Each round starts and measures every server once; the report has the medians."""
    seconds: int = 5
    """Duration of each measurement, s."""
    warm_up: int = 2
    """Duration of the load before each measurement, s."""
    steps: int = 900
    """Number of steps in each track."""
    tracks: int = 16
    """Number of different tracks, which are sent in turn."""
    workers: int = field(default_factory=cores)
    """Number of worker processes, or of instances of each network in Triton."""

    def __post_init__(self) -> None:
        for name, most in (("connections", 10_000), ("rounds", 1_000), ("seconds", 3_600), ("warm_up", 3_600)):
            require_between(name, getattr(self, name), 1, most)
        require_between("steps", self.steps, 10, 100_000)
        require_between("tracks", self.tracks, 1, 1_000)
        require_between("workers", self.workers, 1, 1_000)
        if len(set(self.only)) < len(self.only):
            raise ConfigError("duplicate server", expected="each name once", got=", ".join(self.only))


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """Figures of one server in one round."""

    tracks_per_second: float
    p50: float
    """Median latency, ms."""
    p99: float
    """99th percentile of the latency, ms."""
    cpu: float
    """Processor time of all processes of the server per track, ms."""
    memory: float
    """Proportional set size of all processes after the load, MB."""
    start: float
    """Time from the start of the first process to the first answer, s."""
    others: float
    """Share of the cores that programs other than the server and the load generator used meanwhile, %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerResult:
    """Result of one server."""

    name: str
    body: str
    """Format of the request's body."""
    settings: str
    versions: dict[str, str]
    """Versions of all packages in its environment, by name; empty if it could not be installed."""
    shown: tuple[str, ...]
    """Packages that the table of settings shows."""
    command: tuple[str, ...]
    """Command line; empty if it was not started."""
    install_size: float | None
    """Size of its packages, MB; None if it could not be installed."""
    turns: tuple[Turn, ...]
    failure: str | None = None
    """Reason why there are no figures; None if there are."""

    @property
    def median(self) -> Turn | None:
        """Median of each figure over the rounds; None if the server failed in any round."""
        if self.failure is not None:
            return None
        names = Turn.__dataclass_fields__
        return Turn(**{name: statistics.median(getattr(turn, name) for turn in self.turns) for name in names})


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Results of a comparison, and everything that they depend on."""

    config: PeersConfig
    machine: dict[str, Any]
    """Processor, number of cores and memory of the machine, in GiB."""
    versions: dict[str, str]
    """Versions of Python, of wrk and of this project."""
    git_revision: str
    results: list[PeerResult]

    @property
    def failed(self) -> bool:
        """Whether a server has no figures."""
        return any(result.failure is not None for result in self.results)
