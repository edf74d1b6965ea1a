"""Models, versions and configurations of a model repository on this machine."""

from __future__ import annotations

import compileall
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from reentry.errors import ServerError
from reentry.runtime.cores import cores
from reentry.schema import DERIVED_MODELS, DerivedModel
from reentry.serving.config import ServerConfig
from reentry.serving.tuned import ModelTuning, read_tuned, set_instances, tuned_config, tuning_of

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

LARGEST_VERSION: Final = 999_999_999
"""Largest version number."""

FIRST_VERSION: Final = "reentry export CHECKPOINT"
"""Command that installs the first version, as a fix in errors."""


def models_of(repository: Path) -> list[str]:
    """Return the names of the models in a repository.

    Each of `DERIVED_MODELS` that has no version is left out with the models that need it.

    Raises:
        ServerError: the folder is not a repository, a configuration is invalid, a model has no version, or the version
            that a configuration pins is not installed.
    """
    try:
        names = sorted(path.parent.name for path in repository.glob("*/config.pbtxt"))
    except OSError as error:
        raise ServerError(f"cannot be read: {error.strerror}", where=str(repository)) from error
    if not names:
        raise ServerError(
            "no model repository",
            where=str(repository),
            expected="folders with a config.pbtxt",
            fix="set --repository",
        )
    # A version may lack a graph, which an earlier release did not export. The ensemble `reentry` needs none of them.
    without = {model.name for derived in _without_version(repository) for model in derived.served_with}
    names = [name for name in names if name not in without]
    for name in names:
        if not installed_versions(repository / name):
            raise ServerError(f"no version of {name} is installed", where=str(repository / name), fix=FIRST_VERSION)
        served_versions(repository, name)
    return names


def require_derived_versions(repository: Path) -> None:
    """Check that each of `DERIVED_MODELS` has a version, if the repository holds it or a model that needs it.

    Raises:
        ServerError: one has none, and a server that loads every folder of a repository would not start.
    """
    for derived in _without_version(repository):
        unusable = [model.name for model in derived.served_with if (repository / model.name).is_dir()]
        if unusable:
            raise ServerError(
                f"no version of {derived.name} is installed, and without explicit model control Triton loads every "
                "model",
                where=str(repository / derived.name),
                fix=f"export the checkpoint again, or remove from the repository: {', '.join(unusable)}",
            )


def _without_version(repository: Path) -> list[DerivedModel]:
    folders = {derived: repository / derived.name for derived in DERIVED_MODELS}
    return [derived for derived, folder in folders.items() if not (folder.is_dir() and installed_versions(folder))]


def served_versions(repository: Path, name: str) -> list[int]:
    """Return the versions of a model that Triton serves, in ascending order.

    The version policy of the model's config.pbtxt selects them: all, the pinned ones, or the latest.

    Raises:
        ServerError: the configuration is invalid, or pins a version that is not installed.
    """
    installed = installed_versions(repository / name)
    policy = read_model_config(repository, name).version_policy
    if policy.HasField("all"):
        return installed
    if not policy.HasField("specific"):
        return installed[-(policy.latest.num_versions or 1) :]
    pinned = sorted(policy.specific.versions)
    missing = sorted(set(pinned) - set(installed))
    if missing:
        raise ServerError(
            f"serves version {', '.join(map(str, missing))}, which is not installed",
            where=str(repository / name / "config.pbtxt"),
            expected=" or ".join(map(str, installed)),
            fix=f"reentry repository promote {installed[-1]} --repository {repository}",
        )
    return pinned


def installed_versions(model: Path) -> list[int]:
    """Return the installed versions of a model in ascending order.

    Args:
        model: folder of the model.

    Raises:
        ServerError: the number of a version's folder is too large.
    """
    numbers = (version_number(path.name, where=str(path)) for path in model.iterdir() if path.is_dir())
    return sorted(number for number in numbers if number is not None)


def version_number(name: str, *, where: str) -> int | None:
    """Return the version number in the name of a folder; None if the name is not a number.

    Raises:
        ServerError: the number is larger than `LARGEST_VERSION`. Triton aborts on a number of 20 digits.
    """
    if not (name.isascii() and name.isdecimal()):
        return None
    if len(name) > len(str(LARGEST_VERSION)):
        raise ServerError(
            "version number too large", where=where, expected=f"1 to {LARGEST_VERSION:,}", fix="rename or remove it"
        )
    return int(name)


def ensembles_of(repository: Path) -> dict[str, list[str]]:
    """Return the members of each ensemble, by the ensemble's name.

    Raises:
        ServerError: a configuration is invalid.
    """
    configs = [read_model_config(repository, name) for name in models_of(repository)]
    return {
        config.name: [step.model_name for step in config.ensemble_scheduling.step]
        for config in configs
        if config.HasField("ensemble_scheduling")
    }


def sequence_models_of(repository: Path) -> list[str]:
    """Return the names of the models that keep sequences, such as live tracks.

    Raises:
        ServerError: a configuration is invalid.
    """
    return [name for name in models_of(repository) if read_model_config(repository, name).HasField("sequence_batching")]


def precompile(repository: Path) -> None:
    """Compile the Python models of a repository to byte code, if the repository is writable.

    Otherwise the stubs do so at their first start, regardless of the environment. Triton takes a new file in a model's
    folder for a change of the model. It would reload the model with its file's configuration, and its ensemble as well.
    """
    for model in repository.glob("*/*/model.py"):
        compileall.compile_file(model, quiet=2)


def read_model_config(repository: Path, name: str) -> ModelConfig:
    """Parse the config.pbtxt of a model with Triton's own protobuf schema.

    Raises:
        ServerError: the file is invalid. The error includes line and column.
    """
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    path = repository / name / "config.pbtxt"
    config = ModelConfig()
    try:
        text_format.Parse(path.read_text(), config)
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise ServerError(f"invalid model configuration: {error}", where=str(path)) from None
    return config


def tuned_settings(repository: Path, names: Sequence[str], config: ServerConfig) -> dict[str, ModelTuning]:
    """Read the tuned settings of a server by model; empty if it has none.

    Raises:
        ConfigError: the file is missing or invalid, or does not suit the models of the repository.
        ServerError: a configuration in the repository is invalid.
    """
    if config.tuned is None:
        return {}
    return read_tuned(config.tuned, {name: read_model_config(repository, name) for name in names}, cores=cores())


def fitted_model_config(
    repository: Path, name: str, config: ServerConfig, tuning: ModelTuning | None = None
) -> str | None:
    """Fit the configuration of a model to the cores of this machine, and apply its tuned settings.

    Returns:
        The configuration as JSON for Triton's load request, or None if the file needs no change.
    """
    from google.protobuf.json_format import MessageToJson

    model = read_model_config(repository, name)
    fitted = fitted_config(model, config)
    if tuning is not None:
        fitted = tuned_config(fitted, tuning)
    return None if fitted == model else MessageToJson(fitted, preserving_proto_field_name=True)


def fitted_config(model: ModelConfig, config: ServerConfig) -> ModelConfig:
    """Return a copy of a model's configuration with instances and threads that suit the cores of this machine.

    Networks get the instances and threads of `config`. Python models get half as many instances, because a feature or
    decision pass takes about as long as the network's, so three busy processes share two cores. One with sequences gets
    as many as the networks, because each instance answers its own sequences one by one. A model whose queue is bounded
    gets a spare instance. A model with sequences keeps its total number of slots for them. Ensembles and models on GPUs
    stay as they are.
    """
    fitted = type(model)()
    fitted.CopyFrom(model)
    # An ensemble has no instances, and the cores do not determine how many instances a GPU holds.
    if model.HasField("ensemble_scheduling") or any(group.kind == group.KIND_GPU for group in model.instance_group):
        return fitted
    # Triton's batcher can miss the end of an execution while all instances are busy, and then waits for 500 ms.
    spare = 1 if tuning_of(model).max_queue_size else 0
    count = config.fitted_instances
    if model.backend == "onnxruntime":
        fitted.parameters["intra_op_thread_count"].string_value = str(config.fitted_threads)
    elif not model.HasField("sequence_batching"):
        count = python_instances(count)
    set_instances(fitted, count + spare)
    fitted.instance_group[0].kind = fitted.instance_group[0].KIND_CPU
    return fitted


def python_instances(networks: int) -> int:
    """Return the number of instances of a Python model beside a number of instances of a network."""
    return max(1, networks // 2)
