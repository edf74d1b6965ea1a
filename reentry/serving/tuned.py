"""Tuned settings: a TOML file with a table for each model, whose keys replace settings of the model's config.pbtxt.

`reentry perf tune` writes such a file, `reentry serve --tuned` applies it to the running server only, and
`reentry perf apply` writes it into the config.pbtxt files, which the official container reads.

    [reentry_track]
    instances = 3
    threads = 1
    batching = false
    max_queue_size = 32
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from reentry.errors import ConfigError
from reentry.runtime.arguments import require_between
from reentry.runtime.config_file import read_settings

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

_THREADS: Final = "intra_op_thread_count"
_KEYS: Final = {
    "instances": int,
    "threads": int,
    "batching": bool,
    "max_queue_size": int,
    "max_queue_delay_microseconds": int,
    "queue_timeout_microseconds": int,
}
_QUEUE: Final = ("max_queue_size", "max_queue_delay_microseconds", "queue_timeout_microseconds")
_MOST: Final = 1_024
"""Largest number of instances of a model, and of threads of an instance."""
_LONGEST_QUEUE: Final = 1_000_000
_LONGEST_TIME: Final = 600_000_000
"""Longest delay and timeout, in microseconds."""
_INSTANCES_PER_CORE: Final = 8
"""Instances for each core of the serving machine that are still sensible; each takes memory of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTuning:
    """Tuned settings of one model. None leaves the setting of config.pbtxt unchanged."""

    instances: int | None = None
    """Number of instances of the model."""
    threads: int | None = None
    """Threads of ONNX Runtime in each instance."""
    batching: bool | None = None
    """Whether waiting requests of equal shape run as one batch. The value replaces the whole block `dynamic_batching`,
    so the keys below need it."""
    max_queue_size: int = 0
    """Number of requests that may wait; further ones are refused. 0 for no bound."""
    max_queue_delay_microseconds: int = 0
    """Time that a request waits for others to join its batch."""
    queue_timeout_microseconds: int = 0
    """Time after which a waiting request is refused; 0 for no limit."""

    def __post_init__(self) -> None:
        for name, count in (("instances", self.instances), ("threads", self.threads)):
            if count is not None:
                require_between(name, count, 1, _MOST)
        require_between("max_queue_size", self.max_queue_size, 0, _LONGEST_QUEUE)
        for name in ("max_queue_delay_microseconds", "queue_timeout_microseconds"):
            require_between(name, getattr(self, name), 0, _LONGEST_TIME)
        if self.batching is None and any(getattr(self, name) for name in _QUEUE):
            raise ConfigError("settings of the queue without the key batching", fix="add batching = true or false")
        if self.max_queue_delay_microseconds and not self.batching:
            raise ConfigError("max_queue_delay_microseconds without batching", fix="set batching = true")

    @property
    def queued(self) -> bool:
        """Whether Triton's dynamic batcher queues the requests, which can lose a wake-up and stall one."""
        return bool(self.batching or self.max_queue_size or self.queue_timeout_microseconds)

    def as_dict(self) -> dict[str, Any]:
        """Return the keys of the model's table; those that change nothing are left out."""
        return {name: value for name, value in asdict(self).items() if value or value is False}


def read_tuned(path: Path, models: Mapping[str, ModelConfig], *, cores: int | None = None) -> dict[str, ModelTuning]:
    """Read tuned settings and check that they suit the models.

    Args:
        path: the TOML file.
        models: configuration of each model of the repository by name.
        cores: number of cores of the machine that will serve the models; None if it is unknown.

    Raises:
        ConfigError: the file is missing or not TOML, names a model that is not in the repository or an unknown key,
            or a value has the wrong type or range or does not suit the model.
    """
    tables = read_settings(path, dict.fromkeys(models, _KEYS))
    found = {}
    for name, table in tables.items():
        if not table:
            continue
        where = f"{path}, table [{name}]"
        try:
            found[name] = ModelTuning(**table)
            if cores is not None:
                require_between("instances", found[name].instances or 1, 1, _INSTANCES_PER_CORE * cores)
        except ConfigError as error:
            raise ConfigError(
                error.problem, where=where, expected=error.expected, got=error.got, fix=error.fix
            ) from None
        _check_suits(models[name], found[name], where)
    if not found:
        raise ConfigError("no tuned settings", where=str(path), expected="a table with the name of a model")
    return found


def tuned_config(model: ModelConfig, tuning: ModelTuning) -> ModelConfig:
    """Return a copy of a model's configuration with tuned settings."""
    tuned = type(model)()
    tuned.CopyFrom(model)
    if tuning.instances is not None:
        set_instances(tuned, tuning.instances)
    if tuning.threads is not None:
        tuned.parameters[_THREADS].string_value = str(tuning.threads)
    if tuning.batching is not None:
        tuned.ClearField("dynamic_batching")
    if tuning.queued:
        batching = tuned.dynamic_batching
        batching.SetInParent()
        if not tuning.batching:
            batching.preferred_batch_size.append(1)  # each request is a batch of its own
        batching.max_queue_delay_microseconds = tuning.max_queue_delay_microseconds
        if tuning.max_queue_size or tuning.queue_timeout_microseconds:
            policy = batching.default_queue_policy
            policy.max_queue_size = tuning.max_queue_size
            policy.default_timeout_microseconds = tuning.queue_timeout_microseconds
            policy.timeout_action = policy.REJECT
    return tuned


def set_instances(model: ModelConfig, count: int) -> None:
    """Change the number of instances in a model's configuration, but not the total number of slots for sequences."""
    group = model.instance_group[0] if model.instance_group else model.instance_group.add()
    oldest = model.sequence_batching.oldest
    if oldest.max_candidate_sequences:  # of each instance
        oldest.max_candidate_sequences = math.ceil(oldest.max_candidate_sequences * (group.count or 1) / count)
    group.count = count
    del model.instance_group[1:]


def tuning_of(model: ModelConfig) -> ModelTuning:
    """Return the settings that a model's configuration has now."""
    batching = model.dynamic_batching
    threads = model.parameters[_THREADS].string_value if _THREADS in model.parameters else ""
    return ModelTuning(
        instances=model.instance_group[0].count or 1 if model.instance_group else 1,
        threads=int(threads) if threads.isdecimal() and int(threads) else None,
        batching=model.HasField("dynamic_batching") and list(batching.preferred_batch_size) != [1],
        max_queue_size=batching.default_queue_policy.max_queue_size,
        max_queue_delay_microseconds=batching.max_queue_delay_microseconds,
        queue_timeout_microseconds=batching.default_queue_policy.default_timeout_microseconds,
    )


def _check_suits(model: ModelConfig, tuning: ModelTuning, where: str) -> None:
    if model.HasField("ensemble_scheduling"):
        members = ", ".join(step.model_name for step in model.ensemble_scheduling.step)
        raise ConfigError("an ensemble has no instances", where=where, fix=f"tune its members: {members}")
    if tuning.threads is not None and model.backend != "onnxruntime":
        raise ConfigError(f"threads of the backend {model.backend}", where=where, expected="a model of ONNX Runtime")
