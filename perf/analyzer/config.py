"""Settings of a measurement, as a dataclass and in a TOML file, and the workloads that they stand for."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from reentry.errors import ConfigError
from reentry.runtime.arguments import require_between
from reentry.runtime.config_file import declared_types, read_settings
from reentry.schema import ENSEMBLE, LARGEST_REQUEST, LONGEST_TRACK, REENTRY_STREAM

GRPC: Final = "grpc"
HTTP: Final = "http"
SHARED_MEMORY: Final = "shared-memory"
PROTOCOLS: Final = (GRPC, HTTP, SHARED_MEMORY)
"""Protocols. With shared memory, inputs and outputs lie in system shared memory and requests go over gRPC."""

CONCURRENCY: Final = "concurrency"
CONSTANT: Final = "constant"
POISSON: Final = "poisson"
DISTRIBUTIONS: Final = (CONSTANT, POISSON)
"""Distributions of the time between requests at a rate: always the same, or exponential as of independent clients."""

_SHORTEST: Final = 10
"""Number of steps of the shortest track that can be simulated."""
_LENGTHS: Final = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One combination of settings that is measured on its own."""

    model: str
    protocol: str
    batch: int
    """Number of tracks in one request."""
    length: str
    """Number of steps of each track, or a range such as 600-1200."""
    load: str
    """`concurrency`: each client sends its next request after the last answer. `constant` or `poisson`: requests are
    sent at a rate, whether or not earlier ones are answered."""
    level: float
    """Number of concurrent requests, or requests per second."""

    def __str__(self) -> str:
        unit = f"concurrency {self.level:g}" if self.load == CONCURRENCY else f"{self.load} {self.level:g}/s"
        return f"{self.model}, {self.protocol}, batch {self.batch}, {self.length} steps, {unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PerfConfig:
    """Settings of a measurement. Every combination of models, protocols, batches, lengths and loads is measured."""

    models: tuple[str, ...] = (ENSEMBLE.name,)
    """Names of the models; their inputs are `track_length`, `measurements` and optionally `track_id`. reentry_stream
    stands alone: each request has one measurement of a live track, and each track is a sequence."""
    protocols: tuple[str, ...] = (GRPC,)
    """Protocols, of `PROTOCOLS`."""
    batches: tuple[int, ...] = (1,)
    """Numbers of tracks in one request."""
    lengths: tuple[str, ...] = ("900",)
    """Numbers of steps of a track. A range such as "600-1200" draws the length of each track uniformly from it. In
    batches, all tracks are padded to the longest one, because perf_analyzer joins tracks of one shape only."""
    concurrency: tuple[int, ...] = (1, 4, 16, 64)
    """Numbers of requests in flight; may be empty if there are rates."""
    rates: tuple[float, ...] = ()
    """Requests per second."""
    distributions: tuple[str, ...] = (CONSTANT,)
    """Distributions of the requests at each rate, of `DISTRIBUTIONS`."""
    window: float = 2.0
    """Duration of one measurement window, s. A result covers three windows."""
    stability: float = 10.0
    """Percentage by which throughput and mean latency of three successive windows may differ in a stable result."""
    windows: int = 10
    """Largest number of windows to wait for a stable result; at least 3."""
    recorded: int = 1000
    """Number of requests of each workload that are recorded one by one, to count the stalled ones; 0 to skip this."""
    seed: int = 0
    """Random seed of the simulated tracks."""
    ceiling: bool = True
    """Whether ONNX Runtime scores the same tracks in this process too, as the ceiling of any server's throughput."""

    def __post_init__(self) -> None:
        for name, allowed in (("protocols", PROTOCOLS), ("distributions", DISTRIBUTIONS)):
            values = getattr(self, name)
            if not values or not set(values) <= set(allowed):
                raise ConfigError(f"invalid {name}", expected=f"some of {', '.join(allowed)}", got=_listed(values))
        if not self.models or not all(re.fullmatch(r"[\w.-]+", name, re.ASCII) for name in self.models):
            raise ConfigError("invalid models", expected="names of models", got=_listed(self.models))
        if not self.batches or not self.lengths:
            raise ConfigError("nothing to measure", expected="at least one value in batches and lengths")
        if not self.concurrency and not self.rates:
            raise ConfigError("nothing to measure", expected="at least one value in concurrency or rates")
        if REENTRY_STREAM.name in self.models and not (
            self.is_live and set(self.protocols) == {GRPC} and set(self.batches) == {1}
        ):
            raise ConfigError(
                f"{REENTRY_STREAM.name} cannot be measured with these settings",
                expected=f"no other model, the protocol {GRPC} and the batch 1",
                got=f"{_listed(self.models)}; {_listed(self.protocols)}; {_listed(self.batches)}",
            )
        longest = max(steps_of(length)[1] for length in self.lengths)
        for batch in self.batches:
            require_between("batches", batch, 1, max(1, LARGEST_REQUEST // longest))
        for count in self.concurrency:
            require_between("concurrency", count, 1, 10_000)
        for rate in self.rates:
            require_between("rates", rate, 0.1, 1e6, unit="requests/s")
        require_between("window", self.window, 0.1, 600.0, unit="s")
        require_between("stability", self.stability, 0.1, 500.0, unit="%")
        require_between("windows", self.windows, 3, 1_000)
        require_between("recorded", self.recorded, 0, 100_000)
        require_between("seed", self.seed, 0, 2**63 - 1)
        for name in ("models", "protocols", "batches", "lengths", "concurrency", "rates", "distributions"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ConfigError(f"duplicate value in {name}", expected="each value once", got=_listed(values))

    @property
    def is_live(self) -> bool:
        """Whether each request has one measurement of a live track, so that rates of tracks are those of updates."""
        return self.models == (REENTRY_STREAM.name,)

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as JSON content."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def workloads(self) -> Iterator[Workload]:
        """Yield all workloads, those of one model and protocol together."""
        for scenario in self.scenarios():
            yield from (Workload(**scenario, level=level) for level in self.levels(scenario["load"]))

    def scenarios(self) -> Iterator[dict[str, Any]]:
        """Yield the fields of the workloads without their level."""
        loads = ([CONCURRENCY] if self.concurrency else []) + (list(self.distributions) if self.rates else [])
        for values in itertools.product(self.models, self.protocols, self.batches, self.lengths, loads):
            yield dict(zip(("model", "protocol", "batch", "length", "load"), values, strict=True))

    def levels(self, load: str) -> tuple[float, ...]:
        """Return the levels of a kind of load."""
        return self.concurrency if load == CONCURRENCY else self.rates


def steps_of(length: str) -> tuple[int, int]:
    """Return the smallest and the largest number of steps of a length such as "900" or "600-1200".

    Raises:
        ConfigError: the length has another form or is out of range.
    """
    match = _LENGTHS.fullmatch(length)
    shortest, longest = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not _SHORTEST <= shortest <= longest <= LONGEST_TRACK:
        raise ConfigError(
            "invalid value in lengths",
            expected=f"steps from {_SHORTEST} to {LONGEST_TRACK}, such as 900 or 600-1200",
            got=repr(length),
        )
    return shortest, longest


def read_config(path: Path | None, *, protocols: Sequence[str] = ()) -> PerfConfig:
    """Read the table [perf] of a TOML file; without a file the defaults are returned.

    Args:
        path: the file, or None.
        protocols: protocols if the file names none; empty for the default.

    Raises:
        ConfigError: the file is missing or not TOML, a table or key is unknown, or a value has the wrong type or range.
    """
    settings = read_settings(path, {"perf": declared_types(PerfConfig)})["perf"]
    if protocols:
        settings.setdefault("protocols", tuple(protocols))
    return PerfConfig(**settings)


def _listed(values: tuple[Any, ...]) -> str:
    return ", ".join(map(str, values)) or "none"
