"""The model repository: what it holds, and its configurations fitted to this machine."""

from __future__ import annotations

import compileall
from pathlib import Path
from typing import TYPE_CHECKING, Final

from reentry.errors import ServerError
from reentry.serving.config import ServerConfig

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

LARGEST_VERSION: Final = 999_999_999

FIRST_VERSION: Final = "reentry export CHECKPOINT"
"""The advice for a repository without a version."""


def models_of(repository: Path) -> list[str]:
    """Names of the models the repository holds.

    Raises:
        ServerError: no repository there, a configuration that cannot be read, a model without a version, or without
            the version that its configuration pins.
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
            fix="name it with --repository",
        )
    for name in names:
        if not installed_versions(repository / name):
            raise ServerError(f"no version of {name} is installed", where=str(repository / name), fix=FIRST_VERSION)
        served_versions(repository, name)
    return names


def served_versions(repository: Path, name: str) -> list[int]:
    """Versions of the model that Triton serves, in order: those that its config.pbtxt pins, else the newest.

    Raises:
        ServerError: the configuration cannot be read, or pins a version that is not installed.
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
    """Versions of the model in the folder `model`, in order.

    Raises:
        ServerError: a folder has a larger number than a version can have.
    """
    numbers = (version_number(path.name, where=str(path)) for path in model.iterdir() if path.is_dir())
    return sorted(number for number in numbers if number is not None)


def version_number(name: str, *, where: str) -> int | None:
    """The version that a folder of this name holds; None if the name is not a number.

    Raises:
        ServerError: the number is larger than a version can have; Triton aborts on one of 20 digits.
    """
    if not (name.isascii() and name.isdecimal()):
        return None
    if len(name) > len(str(LARGEST_VERSION)):
        raise ServerError(
            "version number too large", where=where, expected=f"1 to {LARGEST_VERSION:,}", fix="rename or remove it"
        )
    return int(name)


def ensembles_of(repository: Path) -> dict[str, list[str]]:
    """Names of the ensembles, and of the models that each is made of.

    Raises:
        ServerError: a configuration cannot be read.
    """
    configs = [read_model_config(repository, name) for name in models_of(repository)]
    return {
        config.name: [step.model_name for step in config.ensemble_scheduling.step]
        for config in configs
        if _is_ensemble(config)
    }


def precompile(repository: Path) -> None:
    """Write the byte code of the Python models, where the repository may be written.

    The stubs would do so at their first start, whatever the environment says. Triton takes a new file beside a model
    for a new model, and would load it again, by its file's configuration, together with its ensemble.
    """
    for model in repository.glob("*/*/model.py"):
        compileall.compile_file(model, quiet=2)


def read_model_config(repository: Path, name: str) -> ModelConfig:
    """Parse `name`/config.pbtxt with Triton's own schema of it.

    Raises:
        ServerError: file, line and column of what is wrong.
    """
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    path = repository / name / "config.pbtxt"
    config = ModelConfig()
    try:
        text_format.Parse(path.read_text(), config)
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise ServerError(f"cannot read this model configuration: {error}", where=str(path)) from None
    return config


def fitted_model_config(repository: Path, name: str, config: ServerConfig) -> str | None:
    """The model's configuration for this machine's cores, as the JSON that Triton's load request takes.

    The networks get what `config` says; Python models half as many instances, since a feature or decision pass takes
    about as long as the network's and three processes that compute share each two cores.

    Returns:
        None where the file fits as it is, and where it asks for GPUs.
    """
    from google.protobuf.json_format import MessageToJson

    model = read_model_config(repository, name)
    if _is_ensemble(model):
        return None
    fitted = type(model)()
    fitted.CopyFrom(model)
    if any(group.kind == group.KIND_GPU for group in model.instance_group):
        return None  # how many fit on a GPU is not a matter of cores
    del fitted.instance_group[:]
    group = fitted.instance_group.add()
    group.kind = group.KIND_CPU
    if model.backend == "onnxruntime":
        group.count = config.fitted_instances
        fitted.parameters["intra_op_thread_count"].string_value = str(config.fitted_threads)
    else:
        group.count = max(1, config.fitted_instances // 2)
    return None if fitted == model else MessageToJson(fitted, preserving_proto_field_name=True)


def _is_ensemble(model: ModelConfig) -> bool:
    return bool(model.HasField("ensemble_scheduling"))
