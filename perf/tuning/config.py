"""Settings of a search for the best settings of a model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from perf.analyzer.config import PerfConfig
from reentry.errors import ConfigError
from reentry.runtime.arguments import require_between
from reentry.runtime.config_file import declared_types, read_settings
from reentry.runtime.cores import cores
from reentry.schema import REENTRY_TRACK

_SHORT: Final[dict[str, Any]] = {
    "batches": (1, 16),
    "window": 1.0,
    "windows": 4,
    "stability": 20.0,
    "recorded": 300,
    "ceiling": False,
}
"""Settings of perf_analyzer that differ from those of `reentry perf run`: short windows for many candidates."""
_MOST: Final = 1_024


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneConfig:
    """Settings of a search; the keys of the table [tune]."""

    instances: tuple[int, ...] = ()
    """Numbers of instances to try; empty for 1, the number of cores, one more, and twice the cores."""
    threads: tuple[int, ...] = ()
    """Numbers of threads of ONNX Runtime to try; empty for 1, 2 and the number of cores."""
    queue_delays: tuple[int, ...] = (0, 1000)
    """Microseconds that a request may wait for others to join its batch, to try with dynamic batching; empty to leave
    dynamic batching as it is."""
    queue_sizes: tuple[int, ...] = ()
    """Numbers of requests that may wait with dynamic batching, 0 for no bound; empty for the present bound, or 64."""
    finalists: int = 2
    """Number of candidates that are confirmed in turns with the present settings."""
    turns: int = 3
    """Number of turns of the confirmation."""

    def __post_init__(self) -> None:
        for name, least, most in (
            ("instances", 1, _MOST),
            ("threads", 1, _MOST),
            ("queue_delays", 0, 10_000_000),
            ("queue_sizes", 0, 1_000_000),
        ):
            values = getattr(self, name)
            for value in values:
                require_between(name, value, least, most)
            if len(set(values)) < len(values):
                raise ConfigError(f"duplicate value in {name}", expected="each value once", got=str(values))
        require_between("finalists", self.finalists, 1, 10)
        require_between("turns", self.turns, 1, 100)

    @property
    def fitted_instances(self) -> tuple[int, ...]:
        """Numbers of instances to try on this machine."""
        count = cores()
        return self.instances or tuple(sorted({1, count, count + 1, 2 * count}))

    @property
    def fitted_threads(self) -> tuple[int, ...]:
        """Numbers of threads to try on this machine."""
        return self.threads or tuple(sorted({1, min(2, cores()), cores()}))

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as JSON content, with the numbers that were chosen for this machine."""
        return asdict(self) | {"instances": self.fitted_instances, "threads": self.fitted_threads}


def read_tune_config(path: Path | None, *, model: str | None = None) -> tuple[PerfConfig, TuneConfig]:
    """Read the tables [perf] and [tune] of a TOML file; without a file the defaults are returned.

    Args:
        path: the file, or None.
        model: model to tune in place of that of the file; None for the file's, or reentry_track if it names none.

    Raises:
        ConfigError: the file is missing or not TOML, a table or key is unknown, a value has the wrong type or range,
            or the settings have several models, protocols or lengths, or rates.
    """
    tables = read_settings(path, {"perf": declared_types(PerfConfig), "tune": declared_types(TuneConfig)})
    # More requests in flight could exceed the bound of the queue.
    own = {"models": (REENTRY_TRACK.name,), "concurrency": (cores(), 2 * cores())}
    settings = _SHORT | own | tables["perf"]
    if model is not None:
        settings["models"] = (model,)
    config = PerfConfig(**settings)
    for name in ("models", "protocols", "lengths"):
        values = getattr(config, name)
        if len(values) > 1:
            raise ConfigError(
                f"several {name} to tune",
                expected="one, because each has its own best settings",
                got=", ".join(values),
                fix="tune one after the other",
            )
    if config.rates:
        raise ConfigError("rates cannot be tuned", expected="concurrency", fix="remove rates from the table [perf]")
    return config, TuneConfig(**tables["tune"])
