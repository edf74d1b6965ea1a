"""Candidates of a search: settings of the networks that a model runs, and their neighbours along each axis."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from perf.tuning.config import TuneConfig
from reentry.errors import ConfigError
from reentry.runtime.cores import cores
from reentry.serving import ServerConfig
from reentry.serving.repository import (
    FIRST_VERSION,
    fitted_config,
    models_of,
    python_instances,
    read_model_config,
)
from reentry.serving.tuned import ModelTuning, tuning_of

_OVERSUBSCRIBED: Final = 2
"""Threads of all instances for each core from which a candidate is left out."""
_QUEUE: Final = 64
"""Bound of the queue with dynamic batching if there is none now."""

Axis = Callable[[ModelTuning], Iterator[ModelTuning]]
"""Function that yields the candidates that differ from the given one in one setting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The model to tune: its networks, its Python models, and their present settings under `reentry serve`."""

    model: str
    networks: tuple[str, ...]
    """Models of ONNX Runtime: the model itself, or members of the ensemble."""
    pythons: tuple[str, ...]
    """Python members of the ensemble. Their instances follow those of the networks, as under `reentry serve`."""
    present: ModelTuning
    """Present settings of the first network."""

    @classmethod
    def of(cls, repository: Path, model: str) -> Subject:
        """Read the present settings from a model repository.

        Raises:
            ServerError: the folder is not a model repository, or a configuration in it is invalid.
            ConfigError: the repository has no such model, or the model runs no network of ONNX Runtime.
        """
        names = models_of(repository)
        if model not in names:
            fix = FIRST_VERSION if (repository / model).is_dir() else None
            raise ConfigError(
                f"no model {model} with a version", where=str(repository), expected=", ".join(names), fix=fix
            )
        steps = read_model_config(repository, model).ensemble_scheduling.step
        configs = {
            name: read_model_config(repository, name) for name in ([step.model_name for step in steps] or [model])
        }
        networks = tuple(name for name, config in configs.items() if config.backend == "onnxruntime")
        if not networks:
            raise ConfigError(
                f"nothing to tune in {model}",
                where=str(repository),
                expected="a model of ONNX Runtime, or an ensemble with one",
            )
        present = tuning_of(fitted_config(configs[networks[0]], ServerConfig(model_repository=repository)))
        return cls(
            model=model,
            networks=networks,
            pythons=tuple(name for name in configs if name not in networks),
            present=replace(present, threads=present.threads or 1),
        )

    def tables(self, settings: ModelTuning) -> dict[str, ModelTuning]:
        """Return the tuned settings of each model for a candidate."""
        python = ModelTuning(instances=python_instances(settings.instances or 1))
        return dict.fromkeys(self.networks, settings) | dict.fromkeys(self.pythons, python)


def axes(subject: Subject, config: TuneConfig) -> Mapping[str, Axis]:
    """Return the axes of the search by name: instances, threads and batching."""

    def instances(now: ModelTuning) -> Iterator[ModelTuning]:
        yield from _sensible(replace(now, instances=count) for count in config.fitted_instances)

    def threads(now: ModelTuning) -> Iterator[ModelTuning]:
        yield from _sensible(replace(now, threads=count) for count in config.fitted_threads)

    def batching(now: ModelTuning) -> Iterator[ModelTuning]:
        if config.queue_delays:
            # Without batching, a bound of the queue that is configured now stays.
            off = ModelTuning(batching=False) if subject.present.batching else subject.present
            yield _with_queue(now, off)
        # Without a bound, the best settings for throughput would take away the protection against overload.
        sizes = config.queue_sizes or (subject.present.max_queue_size or _QUEUE,)
        for delay in config.queue_delays:
            for size in sizes:
                on = ModelTuning(batching=True, max_queue_size=size, max_queue_delay_microseconds=delay)
                yield _with_queue(now, on)

    return {"instances": instances, "threads": threads, "batching": batching}


def described(settings: ModelTuning) -> str:
    """Return the settings of a candidate in words."""
    parts = [f"{settings.instances} instances", f"{settings.threads} threads", "batching" if settings.batching else ""]
    parts.append(f"queue of {settings.max_queue_size}" if settings.max_queue_size else "")
    delay = settings.max_queue_delay_microseconds
    parts.append(f"delay {delay} us" if delay else "")
    return ", ".join(part for part in parts if part)


def _with_queue(settings: ModelTuning, queue: ModelTuning) -> ModelTuning:
    """Return settings with the batching and the queue of others."""
    return replace(queue, instances=settings.instances, threads=settings.threads)


def _sensible(candidates: Iterator[ModelTuning]) -> Iterator[ModelTuning]:
    for each in candidates:
        if (each.instances or 1) == 1 or (each.instances or 1) * (each.threads or 1) <= _OVERSUBSCRIBED * cores():
            yield each
